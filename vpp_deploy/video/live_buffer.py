"""Between the thread that decodes live input and the one that wants its frames."""

import time
from collections import deque
from dataclasses import dataclass
from threading import Condition

from av.video.frame import VideoFrame

MAX_HELD = 32
"""Frames: what bounds memory when frames are asked for more slowly than they arrive."""

_POLL_S = 0.5  # on Windows, Ctrl-C does not end a wait


@dataclass(frozen=True)
class LiveFrame:
    """A frame as it was decoded.

    Attributes:
        index: its number among all that were decoded.
        arrived_s: when, by the monotonic clock.
        connection: the number of the connection that it came by.
        frame: itself.
    """

    index: int
    arrived_s: float
    connection: int
    frame: VideoFrame


class LiveBuffer:
    """Holds decoded frames until they are asked for or too old.

    Attributes:
        first: the first frame of all, wanted or not, once there is one.
        frames_dropped: frames so far that were too old, or too many to hold.
    """

    def __init__(self, max_latency_s: float | None) -> None:
        """Takes the age from which on frames are dropped; None: never, `put` waits instead."""
        self.first: LiveFrame | None = None
        self.frames_dropped = 0
        self._max_latency_s = max_latency_s
        self._held: deque[LiveFrame] = deque()
        self._changed = Condition()
        self._ended = False
        self._error: BaseException | None = None

    def show_first(self, frame: LiveFrame) -> None:
        """Lets `wait_for_first` go on."""
        with self._changed:
            self.first = frame
            self._changed.notify_all()

    def put(self, frame: LiveFrame) -> None:
        """Holds a frame; does nothing after the end."""
        with self._changed:
            if self._max_latency_s is None:
                while self._held and not self._ended:
                    self._changed.wait(_POLL_S)
            elif len(self._held) == MAX_HELD:
                self._held.popleft()
                self.frames_dropped += 1
            if not self._ended:
                self._held.append(frame)
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more frames will come; `error` is why, and raised when those held have been taken."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def discard(self) -> None:
        """Ends it, and lets go of what is held."""
        with self._changed:
            self._held.clear()
            self._ended, self._error = True, None
            self._changed.notify_all()

    def wait_for_first(self) -> LiveFrame | None:
        """Waits for `first`; None if it ended before."""
        with self._changed:
            while self.first is None and not self._is_over():
                self._changed.wait(_POLL_S)
            return self.first

    def take(self) -> LiveFrame | None:
        """Waits for the oldest frame that is young enough; None after the end."""
        with self._changed:
            while True:
                self._drop_old()
                if self._held:
                    self._changed.notify_all()
                    return self._held.popleft()
                if self._is_over():
                    return None
                self._changed.wait(_POLL_S)

    def _drop_old(self) -> None:
        if self._max_latency_s is not None:
            oldest_s = time.monotonic() - self._max_latency_s
            while self._held and self._held[0].arrived_s < oldest_s:
                self._held.popleft()
                self.frames_dropped += 1

    def _is_over(self) -> bool:
        """Whether it has ended; raises the error that did it, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._ended

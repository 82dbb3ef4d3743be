"""What every source of frames has in common, whether it decodes a file or reads a folder."""

from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError
from vpp_deploy.video.closing import Closing


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: the frame's number in its source, from 0, counting every frame that decodes.
        time_s: presentation time in seconds, None where the source has none.
        rgb: (H, W, 3) uint8, upright.
        discontinuity: the frame does not follow the one before: the stream was interrupted.

    Raises:
        ValueError: rgb is not (H, W, 3) uint8, or the index is negative.
    """

    index: int
    time_s: float | None
    rgb: NDArray[np.uint8]
    discontinuity: bool = False

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"frame index {self.index} is negative")
        shape = self.rgb.shape
        if self.rgb.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"rgb is {self.rgb.dtype} {shape}, expected uint8 (H, W, 3)")


class VideoSource(Closing):
    """An iterator of frames, to be used as a context manager; it runs once.

    Frames have one size, but for live input. One is held at a time. Everything that is wrong with
    the source is a VideoError; frames that came before it stay valid.

    Attributes:
        path: the file or folder; None for an address.
        name: its name without folders, or the address without credentials, for people to read.
        frame_size: (H, W) of the first frame in pixels, upright; of live input, which may change
            it, that of the frame given last.
        fps: frames a second of the source (whatever the stride), None where unknown.
        num_frames: how many frames this range should give. An estimate for progress bars: file
            headers lie. None where even that is unknown.
        frames_skipped_corrupt: packets or images so far that could not be decoded.
        frames_damaged: frames so far that were decoded with visible damage, and used.
        frames_dropped: frames so far of live input that were too old to be given.
        reconnects: times so far that live input was lost and came back.
        live: it goes on as time does, and cannot be read again.
        truncated: the file ended early: in the middle of a packet, by a read error, or more than
            5 % short of the number of frames that its header states. Known once it has been read.
    """

    frame_size: tuple[int, int]
    fps: float | None
    num_frames: int | None
    live = False

    def __init__(self, place: Path | str, selected: range) -> None:
        """Starts before the first frame.

        Args:
            place: the file or folder, or an address as it may be shown.
            selected: frames to give.
        """
        self.path = place if isinstance(place, Path) else None
        self.name = place.name if isinstance(place, Path) else place
        self._place = place
        self.frames_skipped_corrupt = 0
        self.frames_damaged = 0
        self.frames_dropped = 0
        self.reconnects = 0
        self.truncated = False
        self._selected = selected
        self._num_seen = 0  # frames of the source that were passed, selected or not
        self._frames = self._checked()

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def close(self) -> None:
        """Release the source and end its iteration; closing twice is allowed."""
        # PyAV 18.1 crashes the process when a closed container is read, so the reading ends first.
        self._frames.close()
        self._release()

    @property
    def stride(self) -> int:
        """Every how manieth frame of the source is given."""
        return self._selected.step

    @abstractmethod
    def _release(self) -> None:
        """Let go of files; may be called twice."""

    @abstractmethod
    def _read(self) -> Iterator[Frame]:
        """Yield the selected frames, keeping the counters."""

    def _label(self, index: int) -> str:
        """Name one frame in a message."""
        return f"frame {index}"

    def _checked(self) -> Generator[Frame]:
        empty = True
        for frame in self._read():
            if frame.rgb.shape[:2] != self.frame_size:
                raise VideoError(
                    f"{self._place}: {self._label(frame.index)} is {_wxh(frame.rgb.shape)}, but "
                    f"the first is {_wxh(self.frame_size)}; bring all frames to one size, or end "
                    f"the range before frame {frame.index}"
                )
            empty = False
            yield frame
        if empty and not self.live:
            raise VideoError(
                f"{self._place}: no readable frame from {self._selected.start} on; it has "
                f"{self._num_seen} frames, counted from 0: choose a smaller start"
            )


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"

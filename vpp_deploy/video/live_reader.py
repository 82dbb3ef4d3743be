"""The thread behind live input: it decodes as frames arrive, and connects again when they stop."""

import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vpp_deploy.errors import VideoError
from vpp_deploy.video.decoder import video_stream
from vpp_deploy.video.live_address import ConnectionLostError, LiveAddress, reason
from vpp_deploy.video.live_buffer import LiveBuffer, LiveFrame

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_GRACE_S = 1.0
_MAX_FPS = 1000  # FFmpeg gives the clock's 90 000 ticks where it knows no better


@dataclass(frozen=True)
class LiveOptions:
    """How live input is waited for.

    Attributes:
        timeout_s: the connection counts as lost when no frame came for so long; also how long to
            wait for an answer when connecting.
        reconnect_s: how long to try to get a lost connection back, with pauses that grow from half
            a second to ten; 0: the first loss ends the video.
        max_latency_s: frames that waited longer than that, from when they were decoded, are dropped
            and counted; None: none are, and a consumer that is too slow falls behind as far as the
            sender lets it.

    Raises:
        ValueError: a time is out of range.
    """

    timeout_s: float = 10.0
    reconnect_s: float = 60.0
    max_latency_s: float | None = None

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s}, expected more than 0")
        if not self.reconnect_s >= 0:
            raise ValueError(f"reconnect_s is {self.reconnect_s}, expected 0 or more")
        if self.max_latency_s is not None and not self.max_latency_s > 0:
            raise ValueError(f"max_latency_s is {self.max_latency_s}, expected more than 0")


class LiveReader:
    """Decodes live input into a buffer, in a thread of its own, until it is closed.

    Attributes:
        frames_seen, frames_damaged, frames_skipped_corrupt: counted so far. What cannot be decoded
            before a connection's first frame is not: it begins in the middle of a stream.
        connections: that gave frames, so far.
        fps: what the last of them states, None where it does not.
    """

    def __init__(
        self,
        container: InputContainer,
        address: LiveAddress,
        selected: range,
        options: LiveOptions,
        buffer: LiveBuffer,
    ) -> None:
        """Starts reading from the container, as connected, and takes it over.

        Args:
            container: the first connection.
            address: of it, for further ones.
            selected: frames to put into the buffer.
            options: how to wait.
            buffer: is ended when there is nothing more to put into it, with the error if one was
                the reason.
        """
        self.frames_seen = 0
        self.frames_damaged = 0
        self.frames_skipped_corrupt = 0
        self.connections = 0
        self.fps: float | None = None
        self._address = address
        self._selected = selected
        self._options = options
        self._buffer = buffer
        self._closing = Event()
        # A daemon: FFmpeg cannot be called off while it waits for the network, only time out, and
        # the process is to end without it.
        self._thread = Thread(
            target=self._run, args=(container,), name=f"vpp-deploy {address.shown}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the thread: at once, or where it waits for the network when that times out."""
        self._closing.set()
        self._buffer.discard()
        self._thread.join(_GRACE_S)

    def _run(self, container: InputContainer) -> None:
        error: BaseException | None = None
        try:
            self._receive(container)
        except BaseException as failure:  # the consumer raises it
            error = failure
        self._buffer.end(error)

    def _receive(self, container: InputContainer) -> None:
        """Reads until the range or the consumer ends it, through one connection after the other."""
        try:
            self._read(container)
            return
        except ConnectionLostError as error:
            lost = str(error)
        if not self.frames_seen:
            raise VideoError(
                f"{self._address.shown} gave no frame that can be decoded ({lost}); check that it "
                "is sending video"
            )
        while lost:
            lost = self._reconnect(lost)

    def _reconnect(self, lost: str) -> str:
        """Tries to connect until frames come again, then reads on.

        Returns:
            Why frames stopped coming again; empty if nothing more is wanted.

        Raises:
            VideoError: none came in time.
        """
        patience_s = self._options.reconnect_s
        deadline = time.monotonic() + patience_s
        pause_s, attempts, last = _FIRST_PAUSE_S, 0, ""
        while (left_s := deadline - time.monotonic()) > 0:
            # Not all at once, where many lost the same sender.
            if self._closing.wait(min(left_s, pause_s * random.uniform(0.5, 1.0))):
                return ""
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            attempts += 1
            frames_before = self.frames_seen
            try:
                self._read(self._address.connect(min(left_s, self._options.timeout_s)))
                return ""
            except (ConnectionLostError, VideoError) as error:
                last = str(error)
            if self.frames_seen > frames_before:
                return last
        tried = f"{attempts} attempts in {patience_s:g} s to connect again failed, the last: {last}"
        raise VideoError(
            f"{self._address.shown}: the connection was lost ({lost}); "
            f"{tried if attempts else 'no attempt to connect again was allowed'}; check the sender "
            "and the network, or allow a longer time to reconnect"
        )

    def _read(self, container: InputContainer) -> None:
        """Reads one connection until nothing more is wanted, and closes it.

        Raises:
            ConnectionLostError: it stopped giving frames.
            VideoError: it has no video.
        """
        try:
            stream = video_stream(container, self._address.shown)
            # All streams, lest sound keeps a call going in which the time-out is not looked at.
            # PyAV 18.1 crashes the process when a closed container is read: the reading ends first.
            with closing(cast("Generator[Packet[Any]]", container.demux())) as packets:
                self._decode(stream, packets)
        except (av.FFmpegError, OSError) as error:
            raise ConnectionLostError(reason(error, self._options.timeout_s)) from None
        finally:
            container.close()

    def _decode(self, stream: VideoStream, packets: "Iterator[Packet[Any]]") -> None:
        timeout_s = self._options.timeout_s
        begun = False
        last_frame_s = time.monotonic()
        for packet in packets:
            for frame in self._frames(stream, packet, begun):
                if not begun:
                    begun = True
                    self._begin(stream)
                self._pass_on(frame)
                if self._closing.is_set() or self.frames_seen > self._selected[-1]:
                    return
                last_frame_s = time.monotonic()
            if self._closing.is_set():
                return
            if time.monotonic() - last_frame_s > timeout_s:
                raise ConnectionLostError(f"no frame for {timeout_s:g} s")
        raise ConnectionLostError("the stream ended")

    def _frames(self, stream: VideoStream, packet: "Packet[Any]", begun: bool) -> list[VideoFrame]:
        if packet.stream.index != stream.index:
            return []
        try:
            return stream.decode(packet)
        except av.FFmpegError:
            self.frames_skipped_corrupt += begun
            return []

    def _begin(self, stream: VideoStream) -> None:
        """Notes that a connection gives frames."""
        self.connections += 1
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate and rate <= _MAX_FPS else None

    def _pass_on(self, frame: VideoFrame) -> None:
        index = self.frames_seen
        arrived = LiveFrame(index, time.monotonic(), self.connections, frame)
        self.frames_seen += 1
        self.frames_damaged += frame.is_corrupt
        if index == 0:
            self._buffer.show_first(arrived)
        if index in self._selected:
            self._buffer.put(arrived)

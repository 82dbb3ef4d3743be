"""Frames from live input: cameras, and streams that state no end."""

import sys
from collections.abc import Iterator

from av.container import InputContainer

from vpp_deploy.errors import VideoError
from vpp_deploy.video.decoder import ToRgb
from vpp_deploy.video.frames import Frame, VideoSource
from vpp_deploy.video.live_address import ConnectionLostError, LiveAddress
from vpp_deploy.video.live_buffer import LiveBuffer
from vpp_deploy.video.live_reader import LiveOptions, LiveReader
from vpp_deploy.video.video_file import VideoFile
from vpp_deploy.video.waiting import interruptible

__all__ = ["LiveOptions", "LiveSource", "open_address"]


def open_address(address: LiveAddress, selected: range, options: LiveOptions) -> VideoSource:
    """Connect to a URL or a camera; what states its duration is read like a file.

    Raises:
        VideoError: it cannot be opened, or gives no video. The first connection is tried once.
    """
    try:
        container = interruptible(lambda: address.connect(options.timeout_s))
    except ConnectionLostError as error:
        raise VideoError(
            f"{address.shown} cannot be opened ({error}); check the address, and that it is sending"
        ) from error
    if container.duration:
        return VideoFile(container, address.shown, selected, waits=True)
    return LiveSource(container, address, selected, options)


class LiveSource(VideoSource):
    """Live input: frames as they arrive, their times counted from the arrival of the first.

    A connection that is lost is made again; the first frame after it is a discontinuity, and may
    have another size. Frames are upright, as the first one says for all.

    Raises:
        VideoError: it gives no video. Iterating raises it, too: when the connection is lost for
            good, and if all frames of a range that has an end were too old.
    """

    live = True

    def __init__(
        self,
        container: InputContainer,
        address: LiveAddress,
        selected: range,
        options: LiveOptions,
    ) -> None:
        """Takes over the connected container, and waits for its first frame."""
        super().__init__(address.shown, selected)
        self._options = options
        self._buffer = LiveBuffer(options.max_latency_s)
        self._reader = LiveReader(container, address, selected, options, self._buffer)
        try:
            first = self._buffer.wait_for_first()
            assert first is not None  # or what kept it from coming was raised
            self._to_rgb = ToRgb(first.frame, self.name)
            height, width = self._to_rgb(first.frame).shape[:2]
        except BaseException:
            self.close()
            raise
        self._buffer.first = None
        self._begun_s = first.arrived_s
        self.frame_size = (height, width)
        self.fps = self._reader.fps
        self.num_frames = None if selected.stop == sys.maxsize else len(selected)

    def close(self) -> None:
        """End the reading, also while another thread waits for a frame; twice is allowed.

        A connection that is silent at this moment is let go when its time-out is over.
        """
        self._release()

    def _release(self) -> None:
        self._reader.close()
        self._count()

    def _count(self) -> None:
        reader = self._reader
        self._num_seen = reader.frames_seen
        self.frames_damaged = reader.frames_damaged
        self.frames_skipped_corrupt = reader.frames_skipped_corrupt
        self.frames_dropped = self._buffer.frames_dropped
        self.reconnects = max(0, reader.connections - 1)

    def _read(self) -> Iterator[Frame]:
        connection: int | None = None
        while (arrived := self._buffer.take()) is not None:
            self._count()
            rgb = self._to_rgb(arrived.frame)
            self.frame_size = (rgb.shape[0], rgb.shape[1])
            is_interrupted = connection not in (None, arrived.connection)
            connection = arrived.connection
            yield Frame(arrived.index, arrived.arrived_s - self._begun_s, rgb, is_interrupted)
        self._count()
        if connection is None and self._num_seen > self._selected[-1]:
            raise VideoError(
                f"{self._place}: all {self.frames_dropped} frames of the range waited longer than "
                f"{self._options.max_latency_s:g} s; allow a higher latency"
            )

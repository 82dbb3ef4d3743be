"""Frames from any file that FFmpeg reads, through PyAV."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.buffer import Buffer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError
from vpp_deploy.video.frames import Frame, VideoSource

# Headers state frame counts and durations loosely: a few frames less is no sign of damage.
_HEADER_TOLERANCE = 0.95


class VideoFile(VideoSource):
    """A video file; frames are upright as players show them, pixels are taken as square.

    The first frame's rotation holds for all. Colours are converted by the matrix and range that the
    frames are tagged with (FFmpeg's default, BT.601, where they are not). Packets that do not
    decode are skipped and counted. A range is reached by decoding everything before it: seeking is
    not frame-exact in every format.

    Raises:
        VideoError: the file cannot be read, has no video stream, or none of it decodes.
    """

    def __init__(self, path: Path, selected: range) -> None:
        super().__init__(path, selected)
        self._last_error = "the stream is empty"
        try:
            # An absolute path, lest "a:b.mp4" is taken for protocol "a". Tags in another encoding
            # than UTF-8 must not keep a video from being opened.
            self._container = av.open(str(path.absolute()), metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"{path} cannot be read as a video ({error.strerror}): it is no video or is cut "
                "off before its index; give a video file or a folder of images"
            ) from error
        try:
            self._stream = self._video_stream()
            self._decoded: Iterator[VideoFrame] = self._decode()
            # Sizes and rotation in headers are as unreliable as lengths; the first frame is not.
            first = next(self._decoded, None)
            if first is None:
                raise VideoError(
                    f"{path}: none of its video could be decoded ({self._last_error}); check that "
                    "it plays, or convert it with ffmpeg"
                )
            self._decoded = itertools.chain([first], self._decoded)
            self._display_matrix = _display_matrix(first)
            height, width = self._to_rgb(first).shape[:2]
        except BaseException:
            self.close()
            raise
        self.frame_size = (height, width)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        self._stated = self._stated_frames()
        self.num_frames = self._stated and len(
            range(selected.start, min(selected.stop, self._stated), selected.step)
        )

    def _release(self) -> None:
        # The generator refers to self: the decoder's 50 MB would wait for the garbage collector.
        self._decoded = iter(())
        self._container.close()  # PyAV leaks it otherwise (PyAV#1117)

    def _video_stream(self) -> VideoStream:
        container = self._container
        # FFmpeg's "tty" format renders any .txt file as a film of its letters.
        stream = None if container.format.name == "tty" else container.streams.best("video")
        if (
            not isinstance(stream, VideoStream)
            or Disposition.attached_pic in stream.disposition  # the cover of a piece of music
            or stream.codec_context is None  # an unknown codec
        ):
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
            raise VideoError(
                f"{self.path} has no video stream that FFmpeg can decode (streams: {kinds}); give "
                "a video file or a folder of images"
            )
        # PyAV 18.1: with frame threads ("AUTO") an error surfaces packets later, and at the end
        # of a damaged file it takes good frames along (22 instead of 24 of a truncated mp4).
        # Slice threads decode 720p H.264 at 600 frames/s instead of 740. Remove when decode() of
        # the flush packet goes on after an error.
        stream.thread_type = "SLICE"
        return stream

    def _stated_frames(self) -> int | None:
        """How many frames the header promises, if it says anything."""
        stream = self._stream
        if stream.frames:
            return stream.frames
        if stream.duration and stream.time_base:
            duration_s = float(stream.duration * stream.time_base)
        elif self._container.duration:
            duration_s = self._container.duration / av.time_base
        else:
            return None
        return round(duration_s * self.fps) if self.fps else None

    def _packets(self) -> "Iterator[Packet[VideoStream] | None]":  # generic in stubs only
        """Yield packets as far as the file can be read, then the None that flushes the decoder."""
        cut_short = False
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    cut_short = packet.is_corrupt  # in the end, of the last packet
                    yield packet
        except av.FFmpegError as error:
            self._last_error = str(error.strerror)
            cut_short = True
        self.truncated = cut_short
        yield None

    def _decode(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError as error:
                self._last_error = str(error.strerror)
                self.frames_skipped_corrupt += 1
                continue
            yield from frames

    def _read(self) -> Iterator[Frame]:
        for index, frame in enumerate(self._decoded):
            self._num_seen += 1
            self.frames_damaged += frame.is_corrupt
            if index in self._selected:
                yield Frame(index, self._time_s(frame), self._to_rgb(frame))
            if index >= self._selected[-1]:
                return
        num_met = self._num_seen + self.frames_skipped_corrupt
        if self._stated and num_met < _HEADER_TOLERANCE * self._stated:
            self.truncated = True

    def _time_s(self, frame: VideoFrame) -> float | None:
        # PyAV 18.1: frame.time is NaN for the frames that flushing the decoder brings out, because
        # they lack the stream's time base. Remove when decode(None) sets it.
        base = self._stream.time_base
        return None if frame.pts is None or base is None else float(frame.pts * base)

    def _to_rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        try:
            rgb = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self.path}: pixel format {frame.format.name} cannot be converted to RGB "
                f"({error}); convert it with: ffmpeg -i IN -pix_fmt yuv420p OUT.mp4"
            ) from error
        return rgb if self._display_matrix is None else orient(rgb, self._display_matrix)


def _display_matrix(frame: VideoFrame) -> NDArray[np.int32] | None:
    """Get FFmpeg's display matrix, (9,) int32, or None: most videos are stored upright.

    It is asked of the first frame only. PyAV 14.1 to 18.1: reading `side_data` ties a frame into a
    reference cycle, and uncollected frames pile up to hundreds of MB.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return np.frombuffer(bytes(matrix), np.int32) if isinstance(matrix, Buffer) else None


def orient(rgb: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn a frame upright by its display matrix, as players do.

    Args:
        rgb: (H, W, 3) uint8 as stored.
        matrix: (9,) int32, FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX (a, b, u, c, d, v, x, y, w): the
            pixel at (p, q) is shown at (a*p + c*q, b*p + d*q), up to a shift. All eight turns and
            mirrorings by right angles are exact; other angles go to the nearest of them.

    Returns:
        (H, W, 3) or (W, H, 3) uint8, contiguous.
    """
    a, b, _, c, d = matrix[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])

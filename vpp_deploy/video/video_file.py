"""Frames from any video with an end that FFmpeg reads, through PyAV."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vpp_deploy.errors import VideoError
from vpp_deploy.video.decoder import ToRgb, video_stream
from vpp_deploy.video.frames import Frame, VideoSource
from vpp_deploy.video.waiting import interruptible

# Headers state frame counts and durations loosely: a few frames less is no sign of damage.
_HEADER_TOLERANCE = 0.95
_MAX_FPS = 1000  # of a variable rate, some containers state the ticks of their clock


def open_file(path: Path, selected: range) -> "VideoFile":
    """Open a file that FFmpeg reads.

    Raises:
        VideoError: it cannot, or as `VideoFile`.
    """
    complaints = _complaints()
    waits = not path.is_file()  # for who writes into a pipe

    def connect() -> InputContainer:
        # An absolute path, lest "a:b.mp4" is taken for protocol "a". Tags in another encoding than
        # UTF-8 must not keep a video from being opened.
        return av.open(str(path.absolute()), metadata_errors="replace")

    try:
        container = interruptible(connect) if waits else connect()
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path} cannot be read as a video ({error.strerror}): it is no video or is cut off "
            "before its index; give a video file or a folder of images"
        ) from error
    # What the first look complains of, no second look may.
    complained = _complaints() > complaints
    source = VideoFile(container, path, selected, waits=waits)
    source.frames_damaged += complained and not source.frames_damaged
    return source


class VideoFile(VideoSource):
    """A video with an end; frames are upright as players show them, pixels are taken as square.

    Packets that do not decode are skipped and counted. A range is reached by decoding everything
    before it: seeking is not frame-exact in every format.

    Raises:
        VideoError: it has no video stream, or none of it decodes.
    """

    def __init__(
        self, container: InputContainer, place: Path | str, selected: range, *, waits: bool = False
    ) -> None:
        """Takes over the opened container, and closes it if anything is raised.

        Args:
            container: as opened.
            place: as for every source.
            selected: frames to give.
            waits: reading may wait for long, and is to be interrupted by Ctrl-C then.
        """
        super().__init__(place, selected)
        self._container = container
        self._waits = waits
        self._is_reading = False
        self._last_error = "the stream is empty"
        try:
            self._stream = video_stream(container, str(place))
            self._decoded: Iterator[VideoFrame] = self._decode()
            # Sizes and rotation in headers are as unreliable as lengths; the first frame is not.
            first = self._next()
            if first is None:
                raise VideoError(
                    f"{place}: none of its video could be decoded ({self._last_error}); check that "
                    "it plays, or convert it with ffmpeg"
                )
            self._decoded = itertools.chain([first], self._decoded)
            self._to_rgb = ToRgb(first, str(place))
            height, width = self._to_rgb(first).shape[:2]
        except BaseException:
            self.close()
            raise
        self.frame_size = (height, width)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        count = self._stream.frames or self._frames_in(self._stated_s())
        self.num_frames = count and len(
            range(selected.start, min(selected.stop, count), selected.step)
        )

    def _release(self) -> None:
        # The generator refers to self: the decoder's 50 MB would wait for the garbage collector.
        self._decoded = iter(())
        # PyAV leaks it otherwise (PyAV#1117). Where an interrupted call still reads, closing would
        # crash the process.
        if not self._is_reading:
            self._container.close()

    def _stated_s(self) -> float | None:
        """How many seconds of video the header promises, if it says anything."""
        stream, container = self._stream, self._container
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if not container.duration or len(container.streams) > 1:  # then it may be the sound's
            return None
        if (container.start_time or 0) > container.duration / 2:
            return None  # some formats count from there, some from zero
        return container.duration / av.time_base

    def _frames_in(self, duration_s: float | None) -> int | None:
        """About how many frames that is, None where nobody knows their rate."""
        if duration_s is None or self.fps is None or self.fps > _MAX_FPS:
            return None
        return round(duration_s * self.fps)

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
        complaints = _complaints()
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError as error:
                self._last_error = str(error.strerror)
                self.frames_skipped_corrupt += 1
                frames = []
            else:
                if _complaints() > complaints and not any(frame.is_corrupt for frame in frames):
                    self.frames_damaged += 1
            yield from frames
            complaints = _complaints()

    def _next(self) -> VideoFrame | None:
        """The next frame; None at the end."""
        decoded = self._decoded

        def read() -> VideoFrame | None:
            try:
                return next(decoded, None)
            finally:
                self._is_reading = False

        self._is_reading = True
        return interruptible(read) if self._waits else read()

    def _read(self) -> Iterator[Frame]:
        last_s = 0.0
        for index, frame in enumerate(iter(self._next, None)):
            self._num_seen += 1
            self.frames_damaged += frame.is_corrupt
            time_s = self._time_s(frame)
            last_s = last_s if time_s is None else time_s
            if index in self._selected:
                yield Frame(index, time_s, self._to_rgb(frame))
            if index >= self._selected[-1]:
                return
        self.truncated |= self._falls_short(last_s)

    def _falls_short(self, last_s: float) -> bool:
        """Whether the header promises much more than ended with a frame at `last_s` seconds."""
        if self._stream.frames:
            num_met = self._num_seen + self.frames_skipped_corrupt
            return num_met < _HEADER_TOLERANCE * self._stream.frames
        stated_s = self._stated_s()
        if stated_s is None or not self.fps:
            return False
        # Where the rate varies, it says nothing of their number.
        met_s = last_s + (1 + self.frames_skipped_corrupt) / self.fps
        return met_s < _HEADER_TOLERANCE * stated_s

    def _time_s(self, frame: VideoFrame) -> float | None:
        # PyAV 18.1: frame.time is NaN for the frames that flushing the decoder brings out, because
        # they lack the stream's time base. Remove when decode(None) sets it.
        base = self._stream.time_base
        return None if frame.pts is None or base is None else float(frame.pts * base)


def _complaints() -> int:
    """How many errors FFmpeg has logged: of some damage (FFV1, MJPEG) there is no other sign."""
    if av.logging.get_level() is None:  # PyAV's default, under which they are not even counted
        av.logging.set_level(av.logging.PANIC)
    return av.logging.get_last_error()[0]

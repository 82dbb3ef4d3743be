"""Writing frames as an H.264 video that plays even if the run is cut off."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from typing_extensions import Buffer

from vpp_deploy.errors import VideoError
from vpp_deploy.video.closing import Closing

# An mp4 that plays without its end. flush_packets: PyAV 18.1 holds everything back otherwise (28
# bytes on the disk after 45 frames).
_INTERRUPTIBLE = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
}
_BT709 = 1  # AVCOL_SPC_, AVCOL_PRI_ and AVCOL_TRC_BT709
_LIMITED = 1  # AVCOL_RANGE_MPEG


class _Output(io.FileIO):
    """A file that remembers what went wrong: FFmpeg says nothing of what fails at a video's end.

    Attributes:
        error: the first that writing raised.
    """

    error: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        """Writes all of it, which a file may do in parts."""
        rest = memoryview(data)
        length = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = self.error or error
            raise
        return length


class VideoWriter(Closing):
    """An mp4 file of one frame size and rate, to be used as a context manager.

    H.264 and yuv420p, which every player takes (MPEG-4 part 2 where PyAV lacks libx264; `codec`
    tells). Both need even sizes: an odd frame gains one row below or one column to the right that
    repeats its last one.

    The file is written in fragments of about one second, each playable once it is there. Leaving
    the `with` block, by an exception too, completes it; a killed process loses the last fragment.

    Args:
        path: the file, ending in .mp4; an existing one is replaced.
        fps: frames a second.
        frame_size: (H, W) in pixels.

    Raises:
        VideoError: the name does not end in .mp4, or the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, frame_size: tuple[int, int]) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise VideoError(
                f"{self.path} does not end in .mp4, the only format written; rename it"
            )
        self.codec: Literal["libx264", "mpeg4"] = (
            "libx264" if "libx264" in av.codecs_available else "mpeg4"
        )
        self._frame_size = frame_size
        self._odd = (frame_size[0] % 2, frame_size[1] % 2)
        self._num_frames = 0
        self._closed = False
        # 1001: NTSC rates such as 30000/1001 come out exact.
        rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        self._time_base = 1 / rate
        try:
            self._file = _Output(self.path, "w")
            try:
                self._container = av.open(self._file, "w", format="mp4", options=_INTERRUPTIBLE)
                self._stream = self._add_stream(rate)
                self._open_encoder()
                self._container.start_encoding()  # now, not at the first frame: fail early
            except BaseException:
                self._file.close()
                raise
        except (av.FFmpegError, OSError) as error:
            raise self._write_error(error) from error

    def write(self, rgb: NDArray[np.uint8]) -> None:
        """Append one frame, (H, W, 3) uint8.

        Raises:
            ValueError: the frame has another size.
            VideoError: it cannot be encoded or written.
        """
        if rgb.shape != (*self._frame_size, 3):
            raise ValueError(f"frame has shape {rgb.shape}, the video is {self._frame_size}")
        if any(self._odd):
            padded = cv2.copyMakeBorder(rgb, 0, self._odd[0], 0, self._odd[1], cv2.BORDER_REPLICATE)
            rgb = padded.astype(np.uint8, copy=False)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts = self._num_frames
        frame.time_base = self._time_base
        self._encode(frame)
        self._num_frames += 1

    def close(self) -> None:
        """Complete the file; closing twice is allowed.

        Raises:
            VideoError: it cannot be written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self._file:
                try:
                    self._encode(None)
                finally:
                    self._container.close()
        except (av.FFmpegError, OSError) as error:
            raise self._write_error(error) from error
        if self._file.error is not None:
            raise self._write_error(self._file.error)

    def _add_stream(self, rate: Fraction) -> VideoStream:
        # x264 looks 40 frames ahead otherwise, which a killed process would lose, and its B frames
        # delay the first time stamp in a file whose index comes first.
        options = {"tune": "zerolatency"} if self.codec == "libx264" else {}
        stream = self._container.add_stream(self.codec, rate, options=options)
        stream.height = self._frame_size[0] + self._odd[0]
        stream.width = self._frame_size[1] + self._odd[1]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.gop_size = max(1, round(rate))
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        return stream

    def _open_encoder(self) -> None:
        """Apart from the file, of which FFmpeg's words would not tell it.

        Raises:
            VideoError: it takes no frames of this size.
        """
        try:
            self._stream.codec_context.open()
        except (av.FFmpegError, OSError) as error:
            height, width = self._frame_size
            raise VideoError(
                f"{self.path}: {self.codec} cannot encode frames of {width}x{height} "
                f"({error.strerror}); scale the video down, or write no video of it"
            ) from error

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise self._write_error(error) from error

    def _write_error(self, error: av.FFmpegError | OSError) -> VideoError:
        return VideoError(
            f"{self.path} cannot be written ({error.strerror}); check that its folder exists, is "
            "writable and has space"
        )

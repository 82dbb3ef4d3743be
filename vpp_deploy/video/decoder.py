"""From a container's video stream to upright RGB frames: what files and live input share."""

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError

_SMALL = 16  # pixels


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Find the stream to decode, and set its decoder up.

    Args:
        container: as opened.
        name: of the source, for the message.

    Raises:
        VideoError: it has none.
    """
    # FFmpeg's "tty" format renders any .txt file as a film of its letters.
    stream = None if container.format.name == "tty" else container.streams.best("video")
    if (
        not isinstance(stream, VideoStream)
        or Disposition.attached_pic in stream.disposition  # the cover of a piece of music
        or stream.codec_context is None  # an unknown codec
    ):
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
        raise VideoError(
            f"{name} has no video stream that FFmpeg can decode (streams: {kinds}); give a video "
            "file or a folder of images"
        )
    # PyAV 18.1: with frame threads ("AUTO") an error surfaces packets later, and at the end of a
    # damaged file it takes good frames along (22 instead of 24 of a truncated mp4). Slice threads
    # decode 720p H.264 at 600 frames/s instead of 740, and hold no frame back, which live input
    # needs. Remove for files when decode() of the flush packet goes on after an error.
    stream.thread_type = "SLICE"
    return stream


class ToRgb:
    """Converts the frames of one stream to upright RGB.

    The first frame's rotation holds for all. Colours are converted by the matrix and range that the
    frames are tagged with (FFmpeg's default, BT.601, where they are not).
    """

    def __init__(self, first: VideoFrame, name: str) -> None:
        """Takes the first frame, and the source's name for messages."""
        self._display_matrix = _display_matrix(first)
        self._name = name

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert one frame to (H, W, 3) uint8.

        Raises:
            VideoError: FFmpeg cannot convert its pixel format.
        """
        try:
            rgb = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self._name}: pixel format {frame.format.name} cannot be converted to RGB "
                f"({error}); convert it with: ffmpeg -i IN -pix_fmt yuv420p OUT.mp4"
            ) from error
        return rgb if self._display_matrix is None else orient(rgb, self._display_matrix)


def _display_matrix(frame: VideoFrame) -> NDArray[np.int32] | None:
    """Get FFmpeg's display matrix, (9,) int32, or None: most videos are stored upright.

    It is asked of the first frame only, and of a small copy. PyAV 14.1 to 18.1: reading `side_data`
    ties a frame into a reference cycle that nothing collects, and its decoder's buffers with it.
    """
    try:
        small = frame.reformat(width=_SMALL, height=_SMALL)
    except (av.FFmpegError, ValueError):
        return None  # of a format that cannot be converted, which the caller will find out
    matrix = small.side_data.get("DISPLAYMATRIX")
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

"""Opening a video, whatever it is: the one door to frames."""

import sys
from pathlib import Path

from vpp_deploy.errors import VideoError
from vpp_deploy.video.frames import Frame, VideoSource
from vpp_deploy.video.image_folder import ImageFolder
from vpp_deploy.video.video_file import VideoFile

__all__ = ["Frame", "VideoSource", "open_source"]


def open_source(
    path: str | Path, start: int = 0, stop: int | None = None, stride: int = 1
) -> VideoSource:
    """Open a video file or a folder of images for reading frames once, in order.

    Args:
        path: a file that FFmpeg reads, or a folder of images.
        start: first frame to give, from 0.
        stop: the frame to end before; None reads to the end.
        stride: every how manieth frame to give, from `start` on.

    Returns:
        A context manager that iterates over frames.

    Raises:
        VideoError: bad range, no such file, or a source that cannot be read. Iterating raises it,
            too: when the frame size changes, and at the end if the range gave no frame.
    """
    stop_at = sys.maxsize if stop is None else stop
    if start < 0 or stride < 1 or stop_at <= start:
        raise VideoError(
            f"frame range start={start} stop={stop} stride={stride} selects nothing; expected "
            "0 <= start < stop and stride >= 1"
        )
    selected = range(start, stop_at, stride)
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path, selected)
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder; check the path (URLs are not read)")
    return VideoFile(path, selected)

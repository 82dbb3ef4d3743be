"""Opening a video, whatever it is: the one door to frames."""

import re
import sys
from pathlib import Path

from vpp_deploy.errors import VideoError
from vpp_deploy.video.frames import Frame, VideoSource
from vpp_deploy.video.image_folder import ImageFolder
from vpp_deploy.video.live import LiveOptions, open_address
from vpp_deploy.video.live_address import SCHEMES, live_address
from vpp_deploy.video.video_file import open_file

__all__ = ["Frame", "LiveOptions", "VideoSource", "open_source"]

_ON_TIME = LiveOptions()


def open_source(
    place: str | Path,
    start: int = 0,
    stop: int | None = None,
    stride: int = 1,
    *,
    live: LiveOptions = _ON_TIME,
) -> VideoSource:
    """Open a video file, a folder of images, a URL or a camera for reading frames once, in order.

    Args:
        place: a file that FFmpeg reads, a folder of images, a URL (as text: a Path would lose a
            slash) or a camera (/dev/video0).
        start: first frame to give, from 0.
        stop: the frame to end before; None reads to the end.
        stride: every how manieth frame to give, from `start` on.
        live: how URLs and cameras are waited for.

    Returns:
        A context manager that iterates over frames.

    Raises:
        VideoError: bad range, no such file, or a source that cannot be read. Iterating raises it,
            too: when the frame size of a file changes, when a connection is lost for good, and at
            the end if the range gave no frame.
    """
    stop_at = sys.maxsize if stop is None else min(stop, sys.maxsize)
    if start < 0 or stride < 1 or stop_at <= start:
        raise VideoError(
            f"frame range start={start} stop={stop} stride={stride} selects nothing; expected "
            "0 <= start < stop and stride >= 1"
        )
    selected = range(start, stop_at, stride)
    address = live_address(str(place))
    if address is not None:
        return open_address(address, selected, live)
    path = Path(place)
    if path.is_dir():
        return ImageFolder(path, selected)
    if not path.exists():
        if re.match("[a-z]{2,}:/", str(path)):
            raise VideoError(  # without the address, which may hold a password
                "a URL is read by `vpp-deploy run` alone, and begins with "
                f"{'://, '.join(SCHEMES)}://; elsewhere give a video file, recorded from it"
            )
        raise VideoError(
            f"{path}: no such file or folder; check the path (`vpp-deploy run` takes URLs as well, "
            f"which begin with {'://, '.join(SCHEMES)}://)"
        )
    return open_file(path, selected)

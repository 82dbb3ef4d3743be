"""Deployment toolkit for Video Patch Pruning: export to ONNX, run on live video.

`VideoSession.open(folder)` and `open_source(video)` are where its users begin.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vpp_deploy.errors import VppDeployError
    from vpp_deploy.results import FrameResult, TokenMap, Tracks
    from vpp_deploy.runtime.session import VideoSession
    from vpp_deploy.video.source import Frame, open_source

__all__ = [
    "Frame",
    "FrameResult",
    "TokenMap",
    "Tracks",
    "VideoSession",
    "VppDeployError",
    "__version__",
    "open_source",
]

_HOMES = {
    "Frame": "vpp_deploy.video.source",
    "FrameResult": "vpp_deploy.results",
    "TokenMap": "vpp_deploy.results",
    "Tracks": "vpp_deploy.results",
    "VideoSession": "vpp_deploy.runtime.session",
    "VppDeployError": "vpp_deploy.errors",
    "open_source": "vpp_deploy.video.source",
}


def __getattr__(name: str) -> Any:
    # Every module of the package imports this one first, and most need none of these.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

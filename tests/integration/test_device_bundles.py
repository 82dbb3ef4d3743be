"""A device's runner, over memory of the host, gives to the last bit what ONNX Runtime gives."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.host_device import HostDevice, host_runner
from tests.mini import ExportedMini, frames
from tests.runner_checks import check_equal, step_both
from vpp_deploy.runtime.device_runner import DeviceRunner
from vpp_deploy.runtime.onnx_runner import OnnxRunner, open_sessions
from vpp_deploy.runtime.session import VideoSession

Made = tuple[ExportedMini, dict[str, Any]]
BUNDLES = ("mini_bundle", "mini_bundle_of_3", "mini_dense_bundle")


@pytest.fixture(params=BUNDLES)
def made(request: pytest.FixtureRequest) -> Made:
    """A bundle, with its open sessions."""
    exported: ExportedMini = request.getfixturevalue(request.param)
    files = exported.manifest.files
    return exported, open_sessions({s: exported.folder / f for s, f in files.items()}, 1)


@pytest.fixture
def on_device(made: Made) -> Callable[..., tuple[DeviceRunner, HostDevice]]:
    exported, sessions = made
    return lambda **options: host_runner(exported.manifest, sessions, **options)


@pytest.mark.parametrize("timed", [False, True])
def test_the_same_as_onnx_runtime(
    made: Made, on_device: Callable[..., tuple[DeviceRunner, HostDevice]], timed: bool
) -> None:
    exported, _ = made
    runner, _ = on_device(timed=timed)
    reference = OnnxRunner(exported.folder, exported.manifest, threads=1)
    check_equal(step_both([reference, runner], exported.manifest.batch))


def test_what_a_frame_in_mid_video_costs(
    made: Made, on_device: Callable[..., tuple[DeviceRunner, HostDevice]]
) -> None:
    exported, _ = made
    runner, device = on_device()
    session = VideoSession(runner)
    for number, frame in enumerate(frames(8)):
        device.counts.clear()
        session.step_batch([frame] * exported.manifest.batch)
        if number == 0:
            continue
        uploads = {"frames", "frame_sizes", "track_queries", "track_valid"}
        assert device.counts == {"up": len(uploads), "launch": 1, "synchronize": 1}

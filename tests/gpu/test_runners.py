"""Every backend that works on a device, against ONNX Runtime on the CPU, over the same frames."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.host_device import host_runner
from tests.mini import ExportedMini
from tests.runner_checks import check_close, check_equal, step_both
from vpp_deploy.runtime.backends import MODULES, open_runner
from vpp_deploy.runtime.device_runner import DeviceRunner
from vpp_deploy.runtime.onnx_runner import OnnxRunner, open_sessions
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.runtime.runner import PipelineRunner

Open = Callable[[ExportedMini, Path, bool], PipelineRunner]
TOLERANCES = {"fp32": 2e-3, "fp16": 5e-2}
"""Largest difference of a first frame's outputs, over the largest value, between two backends."""

BUILD = "from vpp_deploy.cli.main import main; main()"


def on_host(exported: ExportedMini, _: Path, timed: bool) -> PipelineRunner:
    files = exported.manifest.files
    sessions = open_sessions({s: exported.folder / f for s, f in files.items()}, 1)
    return host_runner(exported.manifest, sessions, timed=timed)[0]


def on_cuda(exported: ExportedMini, _: Path, timed: bool) -> PipelineRunner:
    pytest.importorskip("onnxruntime")
    backend = "onnxruntime-cuda"
    return open_runner(exported.folder, exported.manifest, backend, timed=timed)[0]


def engine(backend: str) -> Open:
    def on_engine(exported: ExportedMini, folder: Path, timed: bool) -> PipelineRunner:
        pytest.importorskip(MODULES[backend])
        options = ["--backend", backend, "--out", str(folder / "built")]
        command = [sys.executable, "-c", BUILD, "build-engine", str(exported.folder), *options]
        subprocess.run(command, check=True, timeout=600)
        return open_bundle(folder / "built", timed=timed).runner

    return on_engine


BACKENDS = [
    pytest.param(on_host, id="host"),
    pytest.param(on_cuda, id="onnxruntime-cuda", marks=pytest.mark.needs_cuda),
    pytest.param(engine("tensorrt"), id="tensorrt", marks=pytest.mark.needs_cuda),
    pytest.param(engine("tensorrt-rtx"), id="tensorrt-rtx", marks=pytest.mark.needs_cuda),
]
BUNDLES = ("mini_dense_bundle", "mini_half_bundle")


@pytest.fixture(params=BUNDLES)
def exported(request: pytest.FixtureRequest) -> ExportedMini:
    bundle: ExportedMini = request.getfixturevalue(request.param)
    return bundle


@pytest.mark.parametrize("opener", BACKENDS)
def test_against_onnx_runtime_on_the_cpu(
    exported: ExportedMini, opener: Open, tmp_path: Path
) -> None:
    manifest = exported.manifest
    reference = OnnxRunner(exported.folder, manifest, threads=1)
    runner = opener(exported, tmp_path, False)
    assert runner.asynchronous
    seen = step_both([reference, runner], manifest.batch)
    if opener is on_host:
        check_equal(seen)
    check_close(seen, TOLERANCES[manifest.precision])


@pytest.mark.parametrize("opener", BACKENDS)
def test_graphs_change_nothing(exported: ExportedMini, opener: Open, tmp_path: Path) -> None:
    """With everything captured, and stage by stage: to the last bit the same."""
    folders = [tmp_path / name for name in ("captured", "timed")]
    for folder in folders:
        folder.mkdir()
    captured, timed = (opener(exported, folder, folder.name == "timed") for folder in folders)
    check_equal(step_both([captured, timed], exported.manifest.batch))
    assert isinstance(timed, DeviceRunner)
    assert not timed.asynchronous
    assert timed.stage_ms.keys() == {stage.name for stage in timed.spec.stages}
    assert all(ms > 0 for ms in timed.stage_ms.values())

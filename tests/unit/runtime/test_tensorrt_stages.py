"""TensorRT's part of the runner, with a double of TensorRT; the real one is in tests/gpu/."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_tensorrt import FakeTensorRT
from tests.host_device import HostDevice
from tests.small_pipeline import COLD, SPEC, WARM, open_small
from vpp_deploy.errors import BackendError, EngineError
from vpp_deploy.runtime import tensorrt_stages
from vpp_deploy.runtime.device_runner import DeviceRunner
from vpp_deploy.runtime.tensorrt_stages import open_engines


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    return open_small()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {stage.name: tmp_path / f"{stage.name}.engine" for stage in SPEC.stages}
    for name, path in paths.items():
        path.write_text(name)
    return paths


@pytest.fixture
def trt(sessions: dict[str, Any]) -> FakeTensorRT:
    return FakeTensorRT(HostDevice(), sessions, SPEC.stages)


def open_runner(trt: FakeTensorRT, files: dict[str, Path], count: int = 3) -> DeviceRunner:
    stages = open_engines(trt, files, SPEC, trt.device)
    initial = {"weights": np.zeros((1, count), np.float32)}
    return DeviceRunner(SPEC, trt.device, stages, initial)


def frame(runner: DeviceRunner, x: list[float], *, cold: bool = False) -> float:
    runner.upload("x", np.array([x], np.float32))
    for stage in COLD if cold else WARM:
        runner.run(stage, cold=cold)
    runner.advance()
    return float(runner.download("class_logits").item())


def test_frames(trt: FakeTensorRT, files: dict[str, Path]) -> None:
    runner = open_runner(trt, files)
    assert runner.captured == 2
    assert frame(runner, [1, 2, 3, 4], cold=True) == 10
    # The memory is 2, 4, 6, 8, then 0, 0, 10, 12: the last two places are kept; then the first two.
    assert frame(runner, [0, 0, 5, 6]) == 11
    assert frame(runner, [7, 1, 0, 0]) == 0
    assert frame(runner, [3, 3, 0, 0]) == 6
    runner.upload("weights", np.ones((1, 8), np.float32))
    assert frame(runner, [1, 1, 1, 1], cold=True) == 4
    np.testing.assert_array_equal(runner.download("spread"), np.full((1, 8), 4))
    assert len(trt.scratch) == 1
    assert trt.profiles == {("select", 0), ("gather", 0), ("gather", 1), ("spread", 0)}


def test_sizes_that_the_engine_was_not_built_for(trt: FakeTensorRT, files: dict[str, Path]) -> None:
    runner = open_runner(trt, files)
    runner.upload("weights", np.ones((1, 9), np.float32))
    with pytest.raises(
        BackendError, match=r"takes weights from \(1, 1\) to \(1, 8\), got \(1, 9\).*build-engine"
    ):
        frame(runner, [1, 2, 3, 4])
    with pytest.raises(BackendError, match="build-engine"):
        open_runner(trt, files, count=9)


def test_a_refused_enqueue(trt: FakeTensorRT, files: dict[str, Path]) -> None:
    runner = open_runner(trt, files)
    frame(runner, [1, 2, 3, 4], cold=True)
    trt.refuse = "gather"
    with pytest.raises(BackendError, match="refuses to run gather: out of workspace"):
        frame(runner, [1, 2, 3, 4], cold=True)


def test_a_refused_enqueue_at_load(trt: FakeTensorRT, files: dict[str, Path]) -> None:
    trt.refuse = "spread"
    with pytest.raises(BackendError, match="refuses to run spread"):
        open_runner(trt, files)


def test_a_file_that_is_no_engine(trt: FakeTensorRT, files: dict[str, Path]) -> None:
    files["spread"].write_text("garbage")
    with pytest.raises(EngineError, match=r"spread\.engine cannot be loaded: bad magic; build"):
        open_runner(trt, files)


def test_the_engine_of_another_stage(trt: FakeTensorRT, files: dict[str, Path]) -> None:
    files["spread"].write_text("select")
    with pytest.raises(EngineError, match=r"spread\.engine has the tensors .*kept.*says.*weights"):
        open_runner(trt, files)


def test_every_name_is_tensorrts() -> None:
    """Those that the module uses exist in TensorRT for RTX, whose calls are TensorRT's."""
    trt = pytest.importorskip("tensorrt_rtx")
    owners = {
        "trt": trt,
        "self._trt": trt,
        "engine": trt.ICudaEngine,
        "self._engine": trt.ICudaEngine,
        "runtime": trt.Runtime,
        "context": trt.IExecutionContext,
        "self._context": trt.IExecutionContext,
        "config": trt.IRuntimeConfig,
        "trt.ILogger": trt.ILogger,
        "strategies": trt.DynamicShapesKernelSpecializationStrategy,
        "self._trt.ExecutionContextAllocationStrategy": trt.ExecutionContextAllocationStrategy,
    }
    tree = ast.parse(Path(tensorrt_stages.__file__).read_text())
    used = {
        (ast.unparse(node.value), node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in owners
    }
    assert len(used) > 15
    assert {f"{a}.{b}" for a, b in used if not hasattr(owners[a], b)} == set()


def test_the_log_keeps_errors_alone() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    log = tensorrt_stages._new_log(trt)
    log.log(trt.ILogger.Severity.ERROR, "no\nroom")
    log.log(trt.ILogger.Severity.INFO, "hello")
    assert log.last == "no room"
    assert trt.Builder(log) is not None

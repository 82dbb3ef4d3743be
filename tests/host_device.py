"""A device made of the host's memory that is as late as a real one may be.

Nothing that is enqueued is done before somebody waits for it: a staging buffer that is written too
early, a result that is read too early, memory that is given back too early show as wrong values.
"""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.manifests import Manifest
from vpp_deploy.runtime.backends import warm_up_values
from vpp_deploy.runtime.device import BoundStage, DeviceTensor, StageExecutor
from vpp_deploy.runtime.device_runner import DeviceRunner
from vpp_deploy.runtime.onnx_runner import import_onnxruntime
from vpp_deploy.runtime.onnx_stages import OnnxStage
from vpp_deploy.runtime.tensors import Shape, host_dtype
from vpp_deploy.specs import StageSpec

POISON = 0xA5


class HostMemory:
    def __init__(self, num_bytes: int) -> None:
        # ONNX Runtime wants aligned addresses, as CUDA gives them.
        self.array = np.zeros(num_bytes + 256, np.uint8)
        self.pointer = -(-self.array.ctypes.data // 256) * 256


class HostDevice:
    """Counts what it is asked for in `counts`."""

    name = "host"
    stream = 1

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._queue: list[Callable[[], None]] = []
        self._capturing = False
        self._pinned: list[NDArray[Any]] = []
        self._graveyard: list[NDArray[np.uint8]] = []

    def allocate(self, num_bytes: int) -> HostMemory:
        self._count("allocate")
        memory = HostMemory(num_bytes)
        # What is given back stays mapped, so that who still uses it reads nonsense.
        self._graveyard.append(memory.array)
        weakref.finalize(memory, memory.array.fill, POISON).atexit = False
        return memory

    def allocate_host(self, shape: Shape, dtype: str) -> NDArray[Any]:
        self._count("allocate")
        array = np.zeros(shape, host_dtype(dtype))
        self._pinned.append(array)
        return array

    def copy_to_device(self, pointer: int, source: NDArray[Any]) -> None:
        self._copy("up", _at(pointer, source), source, source)

    def copy_to_host(self, target: NDArray[Any], pointer: int) -> None:
        self._copy("down", target, _at(pointer, target), target)

    def synchronize(self) -> None:
        self._count("synchronize")
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def capture(self, enqueue: Callable[[], None]) -> "HostGraph":
        self._count("capture")
        before, self._queue, self._capturing = self._queue, [], True
        try:
            enqueue()
            return HostGraph(self, self._queue)
        finally:
            self._queue, self._capturing = before, False

    def event(self) -> "HostEvent":
        self._count("event")
        return HostEvent(self)

    def enqueue(self, what: str, work: Callable[[], None]) -> None:
        if not self._capturing:
            self.counts[what] += 1
        self._queue.append(work)

    def _copy(
        self, way: str, target: NDArray[Any], source: NDArray[Any], host: NDArray[Any]
    ) -> None:
        assert any(host is array for array in self._pinned), "memory that is not pinned"
        self.enqueue(way, lambda: np.copyto(target, source, casting="no"))

    def _count(self, what: str) -> None:
        assert not self._capturing, f"{what} in a capture"
        self.counts[what] += 1


class HostGraph:
    def __init__(self, device: HostDevice, work: list[Callable[[], None]]) -> None:
        self._device = device
        self._work = work

    def launch(self) -> None:
        def run() -> None:
            for work in self._work:
                work()

        self._device.enqueue("launch", run)


class HostEvent:
    def __init__(self, device: HostDevice) -> None:
        self._device = device
        self.time_s = float("nan")

    def record(self) -> None:
        self._device.enqueue("record", lambda: setattr(self, "time_s", time.perf_counter()))

    def ms_since(self, earlier: Any) -> float:
        return float(self.time_s - earlier.time_s) * 1e3


class HostStage:
    """Enqueues an ONNX Runtime session; set `refuse` to have it refused."""

    def __init__(
        self, device: HostDevice, session: Any, stage: StageSpec, *, capturable: bool = True
    ) -> None:
        self._inner = OnnxStage(import_onnxruntime(), session, stage, "cpu", graphs=False)
        self.device = device
        self.name = stage.name
        self.capturable = capturable
        self.refuse = False
        self.bound = 0

    def output_shapes(self, inputs: Mapping[str, Shape]) -> Mapping[str, Shape]:
        return self._inner.output_shapes(inputs)

    def bind(self, tensors: Mapping[str, DeviceTensor], *, cold: bool) -> BoundStage:
        self.bound += 1
        return BoundHostStage(self, self._inner.bind(tensors, cold=cold))


class BoundHostStage:
    def __init__(self, stage: HostStage, inner: BoundStage) -> None:
        self._stage = stage
        self._inner: BoundStage | None = inner

    @property
    def capturable(self) -> bool:
        return self._stage.capturable

    def enqueue(self) -> None:
        if self._stage.refuse:
            raise BackendError(f"{self._stage.name} is refused")
        self._stage.device.enqueue(self._stage.name, self._run)

    def release(self) -> None:
        self._stage.bound -= 1
        self._inner = None

    def _run(self) -> None:
        assert self._inner is not None, "released before it has run"
        self._inner.enqueue()


def host_runner(
    manifest: Manifest, sessions: Mapping[str, Any], *, timed: bool = False
) -> tuple[DeviceRunner, HostDevice]:
    """A bundle's sessions on a device of the host."""
    device = HostDevice()
    executors: dict[str, StageExecutor] = {
        stage.name: HostStage(device, sessions[stage.name], stage)
        for stage in manifest.pipeline.stages
    }
    initial = warm_up_values(manifest)
    return DeviceRunner(manifest.pipeline, device, executors, initial, timed=timed), device


def _at(pointer: int, like: NDArray[Any]) -> NDArray[Any]:
    """What lies there, as an array of the form of `like`."""
    import ctypes

    memory = (ctypes.c_uint8 * like.nbytes).from_address(pointer)
    array: NDArray[Any] = np.ndarray(like.shape, like.dtype, memoryview(memory))
    return array

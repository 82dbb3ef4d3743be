"""TensorRT as far as the runner uses it, over ONNX Runtime on a `HostDevice`.

An engine's file holds the name of its stage. What the real one answers with False or None can be
provoked; a context runs only if everything that the real one needs was set before.
"""

import enum
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from tests.host_device import HostDevice
from vpp_deploy.runtime.device import DeviceTensor
from vpp_deploy.runtime.onnx_runner import import_onnxruntime
from vpp_deploy.runtime.onnx_stages import OnnxStage
from vpp_deploy.runtime.tensors import Shape
from vpp_deploy.specs import StageSpec

SCRATCH_BYTES = 1000


class Strategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1


class Engine:
    def __init__(self, trt: "FakeTensorRT", name: str) -> None:
        self.trt = trt
        self.stage = trt.stages[name]
        self.tensors = (*self.stage.inputs, *self.stage.outputs)
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size_v2 = SCRATCH_BYTES
        varies = any(-1 in tensor.shape for tensor in self.stage.inputs)
        self.num_optimization_profiles = 2 if varies and name == trt.cold_stage else 1

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index].name

    def get_tensor_profile_shape(self, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
        (shape,) = (tensor.shape for tensor in self.tensors if tensor.name == name)
        most = tuple(self.trt.largest if size == -1 else size for size in shape)
        least = tuple(1 if size == -1 else size for size in shape)
        return least, most, most

    def create_execution_context(self, strategy: Strategy) -> "Context":
        assert strategy is Strategy.USER_MANAGED
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.executor = engine.trt.executor(engine.stage.name)
        self.profile: int | None = None
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.scratch = 0
        self.work: Any = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return stream == 1 and profile < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert self.profile is not None
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))

    def infer_shapes(self) -> list[str]:
        self.shapes |= self.executor.output_shapes(self.shapes)
        return []

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(self.shapes[name])

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return pointer % 256 == 0

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert size >= SCRATCH_BYTES
        self.scratch = pointer
        self.engine.trt.scratch.add(pointer)

    def execute_async_v3(self, stream: int) -> bool:
        trt = self.engine.trt
        trt.profiles.add((self.engine.stage.name, self.profile))
        if trt.refuse == self.engine.stage.name:
            trt.log.log(ILogger.Severity.ERROR, "out of\nworkspace")
            return False
        assert stream == 1
        assert self.scratch
        if self.work is None:
            types = {tensor.name: tensor.dtype for tensor in self.engine.tensors}
            tensors = {
                name: DeviceTensor(self.addresses[name], types[name], self.shapes[name])
                for name in types
            }
            self.work = self.executor.bind(tensors, cold=False).enqueue
        trt.device.enqueue(self.engine.stage.name, self.work)
        return True


class FakeTensorRT(SimpleNamespace):
    """The module, with the sessions of a pipeline's stages."""

    ILogger = ILogger
    ExecutionContextAllocationStrategy = Strategy

    def __init__(
        self, device: HostDevice, sessions: Mapping[str, Any], stages: tuple[StageSpec, ...]
    ) -> None:
        super().__init__()
        self.device = device
        self.sessions = sessions
        self.stages = {stage.name: stage for stage in stages}
        self.cold_stage = "gather"
        self.largest = 8
        self.refuse = ""
        self.scratch: set[int] = set()
        self.profiles: set[tuple[str, int | None]] = set()
        self.log: Any = None

    def executor(self, name: str) -> OnnxStage:
        ort = import_onnxruntime()
        return OnnxStage(ort, self.sessions[name], self.stages[name], "cpu", graphs=False)

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        self.log = log
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, data: bytes) -> Engine | None:
        if data.decode() not in self.stages:
            self.log.log(ILogger.Severity.ERROR, "bad magic")
            return None
        return Engine(self, data.decode())

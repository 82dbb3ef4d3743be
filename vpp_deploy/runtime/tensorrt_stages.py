"""TensorRT as the one who computes a device's stages: TensorRT and TensorRT for RTX alike.

A context for each set of addresses, set up once: captured graphs hold its addresses and its
scratch memory. As stages run one after the other, all contexts share one such memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpp_deploy.engines.watching import no_collection
from vpp_deploy.errors import BackendError, EngineError
from vpp_deploy.runtime.device import Device, DeviceMemory, DeviceTensor
from vpp_deploy.runtime.tensors import Shape
from vpp_deploy.specs import PipelineSpec, StageSpec

_WARM, _COLD = 0, 1
"""Optimisation profiles; an engine that runs no first frames of its own has the first alone."""


def open_engines(
    trt: Any, files: Mapping[str, Path], spec: PipelineSpec, device: Device
) -> dict[str, "EngineStage"]:
    """Deserialises the engine of each stage.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        files: by stage. `read_manifest` has checked their hashes, and `check_loadable` has found
            them to fit this library and this GPU: TensorRT itself does not survive all others.
        spec: of the pipeline.
        device: where they run.

    Raises:
        EngineError: TensorRT refuses an engine, or its tensors are not those of the manifest.
    """
    log = _new_log(trt)
    runtime = trt.Runtime(log)
    engines = {}
    for stage in spec.stages:
        path = files[stage.name]
        with no_collection():
            engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(
                f"{path} cannot be loaded: {log.last}; build the engines again with "
                "`vpp-deploy build-engine`"
            )
        _check_tensors(path, engine, stage)
        engines[stage.name] = engine
    num_bytes = max(engine.device_memory_size_v2 for engine in engines.values())
    scratch = Scratch(device.allocate(max(num_bytes, 1)), num_bytes)
    return {
        stage.name: EngineStage(trt, log, runtime, engines[stage.name], stage, device, scratch)
        for stage in spec.stages
    }


def _new_log(trt: Any) -> Any:
    """A logger that keeps the last error, for the messages of ours."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "TensorRT gives no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())

    return Log()


def _check_tensors(path: Path, engine: Any, stage: StageSpec) -> None:
    has = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    expected = {tensor.name for tensor in (*stage.inputs, *stage.outputs)}
    if has != expected:
        raise EngineError(
            f"{path} has the tensors {sorted(has)}, the manifest says {sorted(expected)}; build "
            "the engines again"
        )


class Scratch:
    """Memory for what a stage needs while it runs, one stage at a time."""

    def __init__(self, memory: DeviceMemory, num_bytes: int) -> None:
        self.memory = memory
        self.num_bytes = num_bytes


class EngineStage:
    """A `StageExecutor` over an engine."""

    def __init__(
        self,
        trt: Any,
        log: Any,
        runtime: Any,
        engine: Any,
        stage: StageSpec,
        device: Device,
        scratch: Scratch,
    ) -> None:
        """Takes the engine as it is; `runtime` must live as long as its engines."""
        self._trt = trt
        self._log = log
        self._runtime = runtime
        self._engine = engine
        self._stage = stage
        self._device = device
        self._scratch = scratch

    def output_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """As TensorRT infers them, in mid-video.

        Raises:
            BackendError: the engine was not built for such inputs.
        """
        context = self._context(inputs, _WARM)
        return {t.name: tuple(context.get_tensor_shape(t.name)) for t in self._stage.outputs}

    def bind(self, tensors: Mapping[str, DeviceTensor], *, cold: bool) -> "BoundEngine":
        """A context of its own over these tensors.

        Raises:
            BackendError: TensorRT refuses a size or an address.
        """
        profile = _COLD if cold and self._engine.num_optimization_profiles > 1 else _WARM
        context = self._context(
            {t.name: tensors[t.name].shape for t in self._stage.inputs}, profile
        )
        for spec in self._stage.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            if shape != tensors[spec.name].shape:
                raise BackendError(
                    f"the engine of {self._stage.name} makes {spec.name} {shape}, expected "
                    f"{tensors[spec.name].shape}; build the engines again"
                )
        for name, tensor in tensors.items():
            self._check(context.set_tensor_address(name, tensor.pointer), f"the place of {name}")
        context.set_device_memory(self._scratch.memory.pointer, self._scratch.num_bytes)
        return BoundEngine(self._stage.name, context, self._device, self._log)

    def _context(self, inputs: Mapping[str, Shape], profile: int) -> Any:
        """A new context without scratch memory, for inputs of these sizes."""
        context = self._new_context()
        self._check(context is not None, "a context")
        stream = self._device.stream
        self._check(context.set_optimization_profile_async(profile, stream), "its profile")
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                low, _, high = self._engine.get_tensor_profile_shape(name, profile)
                raise BackendError(
                    f"the engine of {self._stage.name} takes {name} from {tuple(low)} to "
                    f"{tuple(high)}, got {shape}; build one for such frames with "
                    "`vpp-deploy build-engine`"
                )
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise BackendError(f"TensorRT refuses {self._stage.name}: {error}") from error
        self._check(not missing, "the sizes of its inputs")
        return context

    def _new_context(self) -> Any:
        ours = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return self._engine.create_execution_context(ours)
        # TensorRT for RTX compiles kernels for the sizes that it meets; in the background, as it
        # would by default, they came too late for a graph that had been captured by then.
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(config)

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise BackendError(f"TensorRT refuses {what} in {self._stage.name}: {self._log.last}")


class BoundEngine:
    """A `BoundStage` over a context of its own."""

    def __init__(self, name: str, context: Any, device: Device, log: Any) -> None:
        self._name = name
        self._context = context
        self._device = device
        self._log = log

    @property
    def capturable(self) -> bool:
        """TensorRT always; TensorRT for RTX when it says so."""
        if not hasattr(self._context, "is_stream_capturable"):
            return True
        return bool(self._context.is_stream_capturable(self._device.stream))

    def enqueue(self) -> None:
        """Enqueues the context.

        Raises:
            BackendError: TensorRT refuses: the outputs would be those of an earlier frame.
        """
        if not self._context.execute_async_v3(self._device.stream):
            raise BackendError(f"TensorRT refuses to run {self._name}: {self._log.last}")

    def release(self) -> None:
        """Lets the context go."""
        self._context = None

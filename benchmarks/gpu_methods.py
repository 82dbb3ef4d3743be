"""Ways to run a case, in the order of their importance: what a row of the report is made by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_cases import Case
from benchmarks.gpu_checks import (
    Compare,
    against_exact,
    against_exact_reference,
    against_onnxruntime,
    against_reference,
)
from benchmarks.gpu_contenders import Contender, ModelContender, ReferenceContender
from benchmarks.gpu_reference import DeviceReference, Feed
from benchmarks.gpu_workplace import Workplace
from vpp_deploy.errors import BackendError
from vpp_deploy.manifests import hash_file, read_manifest
from vpp_deploy.runtime.backends import warm_up_values
from vpp_deploy.runtime.cuda import CudaDevice
from vpp_deploy.runtime.device import BoundStage, DeviceTensor, StageExecutor
from vpp_deploy.runtime.device_runner import DeviceRunner
from vpp_deploy.runtime.onnx_stages import open_cuda_stages
from vpp_deploy.runtime.opening import OpenedModel, open_bundle
from vpp_deploy.runtime.tensors import Shape

CUDA_GRAPHS = "reduce-overhead"
"""The mode of `torch.compile` that captures CUDA graphs."""


@dataclass(frozen=True)
class Method:
    """A way to run a case.

    Attributes:
        open: makes it ready to run.
        checks: compare it with what it should agree with.
        precision: "fp16" or "fp32".
        single: it takes one stream only.
        where: "cuda", "cpu", or "" for both.
    """

    open: Callable[[Workplace, Case], Contender]
    checks: tuple[Compare, ...]
    precision: str = "fp16"
    single: bool = False
    where: str = ""

    def unfit(self, case: Case, device: str) -> str | None:
        """Why it does not take this case; None: it does."""
        if self.single and case.batch > 1:
            return "it steps one stream"
        if self.where not in ("", device):
            return f"for --device {self.where}"
        return None


def _stages(precision: str, compile_mode: str | None = None) -> Callable[..., Contender]:
    def opened(workplace: Workplace, case: Case) -> Contender:
        prepared = workplace.prepared(case, precision)
        name = f"{case.name}, {precision}"
        contender = ModelContender(workplace.in_pytorch(prepared, name, compile_mode))
        if compile_mode is not None:
            contender.notes["torch.compile"] = f"mode {compile_mode}, one graph a stage"
        return contender

    return opened


def _reference(
    *, half: bool, feed: Feed = "published", compile_mode: str | None = None
) -> Callable[..., Contender]:
    def opened(workplace: Workplace, case: Case) -> Contender:
        reference = DeviceReference(
            workplace.checkpoint(case),
            workplace.recipe(case),
            workplace.input_size,
            workplace.device,
            half=half,
            feed=feed,
            compile_mode=compile_mode,
        )
        contender = ReferenceContender(reference, "the public code's way, in PyTorch")
        if compile_mode is not None:
            contender.notes["torch.compile"] = f"mode {compile_mode}"
            contender.notes["feed"] = (
                "fixed budgets and constant track queries: the published rule's sizes depend on "
                "the data"
            )
        return contender

    return opened


def _onnxruntime(backend: str) -> Callable[..., Contender]:
    def opened(workplace: Workplace, case: Case) -> Contender:
        folder = workplace.bundle(case)
        return ModelContender(lambda timed: open_bundle(folder, backend, timed=timed))

    return opened


def _onnxruntime_enqueued(workplace: Workplace, case: Case) -> Contender:
    folder = workplace.bundle(case)
    return ModelContender(lambda timed: _open_enqueued(folder, timed))


def _engines(backend: str) -> Callable[..., Contender]:
    def opened(workplace: Workplace, case: Case) -> Contender:
        folder = workplace.engines(case, backend)
        return ModelContender(lambda timed: open_bundle(folder, timed=timed))

    return opened


class _Enqueued:
    """A `StageExecutor` whose runs are never captured, as those of first frames are not."""

    def __init__(self, stage: StageExecutor) -> None:
        self._stage = stage

    def output_shapes(self, inputs: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """As the stage says."""
        return self._stage.output_shapes(inputs)

    def bind(self, tensors: Mapping[str, DeviceTensor], *, cold: bool) -> BoundStage:
        """As the stage binds a first frame; for ONNX Runtime that is all the difference."""
        return self._stage.bind(tensors, cold=True)


def _open_enqueued(folder: Path, timed: bool) -> OpenedModel:
    manifest = read_manifest(folder)
    device = CudaDevice()
    stages = open_cuda_stages(folder, manifest, device)
    executors = {name: _Enqueued(stage) for name, stage in stages.items()}
    return OpenedModel(
        name=manifest.name,
        kind=f"bundle on ONNX Runtime (cuda, {device.name}) without CUDA graphs",
        runner=DeviceRunner(
            manifest.pipeline, device, executors, warm_up_values(manifest), timed=timed
        ),
        classes=manifest.classes,
        budgets=manifest.budgets or None,
        sha256=hash_file(folder / "manifest.json"),
        operations=manifest.operations,
        threads=None,
    )


COMPILED_REFERENCE = "reference, torch.compile fp16"

_PIPELINE = (against_exact, against_onnxruntime)

METHODS: dict[str, Method] = {
    "ONNX Runtime CUDA fp16, CUDA graphs": Method(
        _onnxruntime("onnxruntime-cuda"), _PIPELINE, where="cuda"
    ),
    "TensorRT fp16": Method(_engines("tensorrt"), _PIPELINE, where="cuda"),
    "TensorRT-RTX fp16": Method(_engines("tensorrt-rtx"), _PIPELINE, where="cuda"),
    "ONNX Runtime CPU fp16": Method(_onnxruntime("onnxruntime"), (against_exact,), where="cpu"),
    "stages, eager fp16": Method(_stages("fp16"), _PIPELINE),
    COMPILED_REFERENCE: Method(
        _reference(half=True, feed="fixed", compile_mode="default"),
        (against_exact_reference("fixed"),),
        single=True,
    ),
    "stages, torch.compile fp16, CUDA graphs": Method(
        _stages("fp16", CUDA_GRAPHS), _PIPELINE, where="cuda"
    ),
    "reference, eager fp16": Method(
        _reference(half=True), (against_exact_reference("published"),), single=True
    ),
    "ONNX Runtime CUDA fp16, no CUDA graphs": Method(
        _onnxruntime_enqueued, _PIPELINE, where="cuda"
    ),
    "reference, torch.compile fp16, CUDA graphs": Method(
        _reference(half=True, feed="fixed", compile_mode=CUDA_GRAPHS),
        (against_exact_reference("fixed"),),
        single=True,
        where="cuda",
    ),
    "stages, eager fp32": Method(_stages("fp32"), (against_onnxruntime,), "fp32"),
    "reference, eager fp32": Method(
        _reference(half=False), (against_reference,), "fp32", single=True
    ),
}


def chosen(names: str | None) -> dict[str, Method]:
    """Methods whose names hold one of these words, separated by commas; None: all.

    Raises:
        BackendError: a word is in no name.
    """
    if names is None:
        return METHODS
    found: dict[str, Method] = {}
    for word in names.split(","):
        fitting = {n: m for n, m in METHODS.items() if word.strip().lower() in n.lower()}
        if not fitting:
            raise BackendError(f"no method is called {word!r}; there are: {'; '.join(METHODS)}")
        found |= fitting
    return {name: method for name, method in METHODS.items() if name in found}

"""The project's stages in PyTorch on a device: eager, or compiled."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import reference_network
from vpp_deploy.models import head, pixel_decoder
from vpp_deploy.partition.plan import PipelinePlan
from vpp_deploy.runtime.torch_runner import TorchRunner

Stage = Callable[..., Any]

_ENCODINGS: tuple[tuple[ModuleType, str], ...] = (
    (head, "sine_encoding"),
    (pixel_decoder, "sine_encoding"),
    (pixel_decoder, "cell_centres"),
    (reference_network, "sine_encoding"),
)
"""What the models compute anew, on the CPU, for every frame of the same size."""


@contextlib.contextmanager
def encodings_on(device: torch.device) -> Iterator[None]:
    """Position encodings lie on the device, computed once, as in every exported graph.

    Otherwise eager models would wait milliseconds a frame for the CPU, which says nothing of them.
    """
    own = [getattr(module, name) for module, name in _ENCODINGS]
    for (module, name), function in zip(_ENCODINGS, own, strict=True):
        setattr(module, name, functools.partial(_kept, function, device))
    try:
        yield
    finally:
        for (module, name), function in zip(_ENCODINGS, own, strict=True):
            setattr(module, name, function)


@functools.cache
def _kept(function: Callable[..., Tensor], device: torch.device, *arguments: Any) -> Tensor:
    return function(*arguments).to(device)


def new_event() -> torch.cuda.Event:
    """One that tells the time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class DeviceTorchRunner(TorchRunner):
    """A `TorchRunner` whose table lies on a device.

    Attributes:
        stage_ms: of a timed runner, stage to milliseconds of its last run, by the device's clock.
    """

    def __init__(
        self,
        plan: PipelinePlan,
        device: torch.device,
        compiled: Mapping[str, Stage] | None = None,
        *,
        timed: bool = False,
    ) -> None:
        """Moves the plan's stages to the device.

        Args:
            plan: of fixed budgets.
            device: "cuda" or "cpu".
            compiled: what runs in mid-video, by stage; None: the stages as they are.
            timed: every stage is waited for, and `stage_ms` tells its time.
        """
        super().__init__(plan)
        self.stage_ms: dict[str, float] = {}
        self._device = device
        self._compiled = compiled or {}
        self._timed = timed
        for stage in plan.stages.values():
            stage.to(device)
        self._cold = {name: value.to(device) for name, value in self._cold.items()}

    @property
    def asynchronous(self) -> bool:
        """On a GPU, but for a runner that is timed."""
        return self._device.type == "cuda" and not self._timed

    def upload(self, name: str, value: NDArray[Any]) -> None:
        """Copies to the device."""
        self._table[name] = torch.from_numpy(np.array(value)).to(self._device)

    @torch.inference_mode()
    def run(self, stage: str, *, cold: bool = False) -> None:
        """Calls the stage. First frames are never compiled: they are too rare."""
        if self._compiled and stage == self.spec.stages[0].name:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        table = {**self._table, **self._cold} if cold else self._table
        arguments = [table[name] for name in self._inputs[stage]]
        compiled = None if cold else self._compiled.get(stage)
        with self._watched(stage):
            result = self._eager(stage, arguments) if compiled is None else compiled(*arguments)
        values = result if isinstance(result, tuple) else (result,)
        self._table.update(zip(self._outputs[stage], values, strict=True))

    def download(self, name: str) -> NDArray[Any]:
        """Waits for the device."""
        tensor = self._table[name]
        if tensor.dtype == torch.bfloat16:  # which NumPy does not have
            tensor = tensor.float()
        value: NDArray[Any] = tensor.cpu().numpy()
        return value

    def advance(self) -> None:
        """Moves the state, out of the memory that a compiled stage writes again."""
        for edge in self.spec.state:
            value = self._table[edge.output]
            self._table[edge.input] = value.clone() if self._compiled else value

    def _eager(self, stage: str, arguments: list[Tensor]) -> Any:
        with encodings_on(self._device):
            return self._plan.stages[stage](*arguments)

    @contextlib.contextmanager
    def _watched(self, stage: str) -> Iterator[None]:
        if not self._timed:
            yield
        elif self._device.type == "cuda":
            start, end = new_event(), new_event()
            start.record()
            yield
            end.record()
            end.synchronize()
            self.stage_ms[stage] = start.elapsed_time(end)
        else:
            begun = time.perf_counter()
            yield
            self.stage_ms[stage] = (time.perf_counter() - begun) * 1e3


def compile_stages(plan: PipelinePlan, device: torch.device, mode: str) -> dict[str, Stage]:
    """Each stage as one compiled graph; what PyTorch cannot compile whole fails when it is called.

    Args:
        plan: of fixed budgets.
        device: where constants that a stage makes are to lie.
        mode: of `torch.compile`.
    """
    forget_compiled()

    def compiled(module: torch.nn.Module) -> Stage:
        whole: Stage = torch.compile(module, mode=mode, dynamic=False, fullgraph=True)

        def call(*arguments: Tensor) -> Any:
            with device:
                return whole(*arguments)

        return call

    return {name: compiled(module) for name, module in plan.stages.items()}


def forget_compiled(*, capture_questions: bool = False) -> None:
    """Begins the count of `compiled_parts` anew.

    Args:
        capture_questions: what is compiled from now on may hold operations whose output's size
            depends on the data, instead of being cut there.
    """
    from torch._dynamo import config  # takes seconds to import
    from torch._dynamo.utils import counters

    counters.clear()
    config.capture_dynamic_output_shape_ops = capture_questions


def compiled_parts() -> dict[str, Any]:
    """What `torch.compile` made since then: graphs, and where it fell back to eager, and why."""
    from torch._dynamo.utils import counters

    breaks = {" ".join(str(k).split())[:300]: v for k, v in counters["graph_break"].items()}
    return {"graphs": counters["stats"]["unique_graphs"], "fell back": breaks or "nowhere"}

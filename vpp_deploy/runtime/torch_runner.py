"""Runs the stages as PyTorch modules: slow, and what every other runner is compared with."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.specs import PipelineSpec

if TYPE_CHECKING:
    import torch

    from vpp_deploy.partition.plan import PipelinePlan


class TorchRunner:
    """A `PipelineRunner` over a plan's modules. Sizes may vary (published rule, any tracks)."""

    def __init__(self, plan: "PipelinePlan") -> None:
        """Takes the stages of `plan` as they are; their weights are not copied."""
        # Deployment machines have no torch: it is imported where a plan already proves it there.
        import torch

        self.owner: object = None
        self._torch = torch
        self._plan = plan
        self._inputs = {s.name: [t.name for t in s.inputs] for s in plan.spec.stages}
        self._outputs = {s.name: [t.name for t in s.outputs] for s in plan.spec.stages}
        self._table: dict[str, torch.Tensor] = {}
        self._cold = self._cold_values()
        # Where a first frame skips the stage that gives it, it is there to be read all the same.
        self._table.update(self._cold)
        for edge in plan.spec.state:
            state = plan.spec.tensor(edge.input)
            if -1 not in state.shape:
                self._table[edge.input] = torch.zeros(
                    state.shape, dtype=getattr(torch, state.dtype)
                )

    @property
    def spec(self) -> PipelineSpec:
        """The plan's specification."""
        return self._plan.spec

    @property
    def asynchronous(self) -> bool:
        """No: `run` returns when the stage is done."""
        return False

    @property
    def batch(self) -> int:
        """Streams of the plan."""
        return self._plan.spec.stages[0].inputs[0].shape[0]

    def upload(self, name: str, value: NDArray[Any]) -> None:
        """Replaces the tensor `name`; its size may differ from the last."""
        tensor = self._torch.from_numpy(np.array(value))
        before = self._table.get(name)
        # What was downloaded as float32, for want of bfloat16, goes back as what it was.
        self._table[name] = tensor if before is None else tensor.to(before.dtype)

    def run(self, stage: str, *, cold: bool = False) -> None:
        """Calls the stage's module without gradients."""
        table = {**self._table, **self._cold} if cold else self._table
        with self._torch.inference_mode():
            result = self._plan.stages[stage](*(table[name] for name in self._inputs[stage]))
        values = result if isinstance(result, tuple) else (result,)
        self._table.update(zip(self._outputs[stage], values, strict=True))

    def download(self, name: str) -> NDArray[Any]:
        """A view of the tensor `name`."""
        tensor = self._table[name]
        if tensor.dtype == self._torch.bfloat16:  # which NumPy does not have
            tensor = tensor.float()
        value: NDArray[Any] = tensor.numpy()
        return value

    def advance(self) -> None:
        """Moves the state."""
        for edge in self.spec.state:
            self._table[edge.input] = self._table[edge.output]

    def _cold_values(self) -> dict[str, "torch.Tensor"]:
        """What stands in for the outputs of the stages that a first frame skips."""
        cold = self.spec.cold_start
        if cold is None:
            return {}
        values = {}
        for stage in self.spec.stages:
            if stage.name not in cold.skip:
                continue
            for spec in stage.outputs:
                if spec.name != cold.keep:
                    dtype = getattr(self._torch, spec.dtype)
                    values[spec.name] = self._torch.zeros(spec.shape, dtype=dtype)
        values[cold.keep] = self._torch.arange(cold.num_tokens).repeat(self.batch, 1)
        return values

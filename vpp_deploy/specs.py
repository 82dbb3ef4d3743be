"""Tensors, stages and pipelines as plain data.

One description drives the exporter's example inputs, the names in the ONNX graphs, the runners'
buffers and the checks at run time. No torch, no ONNX: a deployment machine reads it from JSON.
"""

from dataclasses import dataclass

PRECISIONS = ("fp32", "int8", "fp16", "bf16")
"""Numeric types that graphs are made in."""

TARGETS = ("cpu", "gpu")
"""What graphs are written for: ONNX Runtime on the CPU, or TensorRT and ONNX Runtime on CUDA."""

BACKENDS = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
"""Who computes the stages: the first two take bundles, the others engines."""


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor. A size of -1 varies from call to call (the trunk's token axis)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StageSpec:
    """One graph: its tensors in the order of its signature."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class StateEdge:
    """After a frame, the value of `output` is the next frame's `input`."""

    output: str
    input: str


@dataclass(frozen=True)
class ColdStart:
    """What differs on a first frame, and on the frame after a reset.

    The stages in `skip` do not run; instead of their result, `keep` names every token.
    """

    skip: tuple[str, ...]
    keep: str
    num_tokens: int


@dataclass(frozen=True)
class PipelineSpec:
    """Stages in the order they run, and how the temporal state travels between frames.

    Tensors are matched by name: a stage's input is an earlier stage's output, a state input, or
    an input of the whole pipeline. `cold_start` is None for a dense model, which has no state.
    """

    stages: tuple[StageSpec, ...]
    state: tuple[StateEdge, ...]
    cold_start: ColdStart | None

    def tensor(self, name: str) -> TensorSpec:
        """The tensor called `name`, as its producer describes it (else its first consumer).

        Raises:
            KeyError: no stage has a tensor of that name.
        """
        for stage in self.stages:
            for spec in stage.outputs:
                if spec.name == name:
                    return spec
        for stage in self.stages:
            for spec in stage.inputs:
                if spec.name == name:
                    return spec
        raise KeyError(name)

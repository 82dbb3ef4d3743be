"""What an open ONNX Runtime session says of its graph, wherever it runs."""

from collections.abc import Mapping
from typing import Any

from vpp_deploy.errors import BundleError
from vpp_deploy.runtime.tensors import Shape
from vpp_deploy.specs import StageSpec, TensorSpec

_ORT_TYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
}


def output_shapes(session: Any, stage: StageSpec, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """Sizes of a graph's outputs: one that varies has the name of an input's.

    Args:
        session: of the graph.
        stage: what the graph is.
        inputs: sizes of its inputs.

    Raises:
        BundleError: an output has a size that no input has.
    """
    sizes = {
        symbol: inputs[tensor.name][axis]
        for tensor in session.get_inputs()
        for axis, symbol in enumerate(tensor.shape)
        if isinstance(symbol, str)
    }
    shapes = {}
    for tensor in session.get_outputs():
        for size in tensor.shape:
            if not isinstance(size, int) and size not in sizes:
                raise BundleError(
                    f"{stage.name}: no input tells the size {size} of {tensor.name}; export the "
                    "bundle again"
                )
        shapes[tensor.name] = tuple(s if isinstance(s, int) else sizes[s] for s in tensor.shape)
    return shapes


def one_line(error: Exception) -> str:
    """Its message without line breaks."""
    return " ".join(str(error).split())


def check_signature(session: Any, stage: StageSpec) -> None:
    """Compares what a graph takes and gives with the manifest.

    Raises:
        BundleError: they differ.
    """

    def described(tensors: Any) -> list[TensorSpec]:
        return [
            TensorSpec(
                t.name,
                _ORT_TYPES.get(t.type, t.type),
                tuple(size if isinstance(size, int) else -1 for size in t.shape),
            )
            for t in tensors
        ]

    for kind, got, expected in (
        ("inputs", described(session.get_inputs()), stage.inputs),
        ("outputs", described(session.get_outputs()), stage.outputs),
    ):
        for a, b in zip(got, expected, strict=False):
            if a != b:
                raise BundleError(
                    f"{stage.name}: the graph's {kind} have {a}, the manifest says {b}; "
                    "export the bundle again"
                )
        if len(got) != len(expected):
            raise BundleError(
                f"{stage.name}: the graph has {len(got)} {kind}, the manifest {len(expected)}; "
                "export the bundle again"
            )

"""What no exported graph may hold, with the reason (LESSONS.md has the sources)."""

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from vpp_deploy.errors import ExportError
from vpp_deploy.recipes import MAX_BUDGET

_FORBIDDEN = {
    "GridSample": "TensorRT 10.13 to 11.1 miscompiles deformable attention made of it",
    "NonZero": "its output's size depends on the data",
    "Compress": "its output's size depends on the data",
    "Unique": "its output's size depends on the data",
    "NonMaxSuppression": "its output's size depends on the data",
}
_FORBIDDEN_ON_GPUS = {"DeformConv": "TensorRT has no such operator"}
_SCATTERS = ("ScatterElements", "ScatterND")


def lint_graph(stage: str, model: onnx.ModelProto, target: str = "cpu") -> None:
    """Checks one graph, nested ones included, for what its target (`TARGETS`) must not meet.

    Raises:
        ExportError: naming every finding.
    """
    found = sorted({*_findings(model), *(_gpu_findings(model) if target == "gpu" else ())})
    if found:
        raise ExportError(f"the graph of {stage} fails the lint: " + "; ".join(found))


def _findings(model: onnx.ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield f"operators of the domain {opset.domain!r}, which not every backend has"
    if model.functions:
        yield "model-local functions, which were to be inlined"
    for graph in _graphs(model.graph):
        constants = _integer_constants(graph)
        producers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            yield from _node_findings(node, producers, constants)


def _gpu_findings(model: onnx.ModelProto) -> Iterator[str]:
    for graph in _graphs(model.graph):
        bytes_in = {
            value.name
            for value in graph.input
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        }
        for node in graph.node:
            if node.op_type in _FORBIDDEN_ON_GPUS:
                yield f"{node.op_type}: {_FORBIDDEN_ON_GPUS[node.op_type]}"
            if node.op_type != "Cast" and not bytes_in.isdisjoint(node.input):
                yield f"{node.op_type} of uint8: TensorRT only casts it"


def _node_findings(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], constants: dict[str, int]
) -> Iterator[str]:
    if node.op_type in _FORBIDDEN:
        yield f"{node.op_type}: {_FORBIDDEN[node.op_type]}"
    if node.op_type in _SCATTERS:
        reduction = next((a.s for a in node.attribute if a.name == "reduction"), b"none")
        if reduction != b"none":
            yield f"{node.op_type} with reduction {reduction.decode()}: slow or refused"
    if node.op_type == "TopK":
        k = constants.get(node.input[1])
        if k is None:
            yield "TopK whose k is no constant: its output's size depends on the data"
        elif k > MAX_BUDGET:
            yield f"TopK of {k}: TensorRT takes at most {MAX_BUDGET}"
    if node.op_type == "ReduceMean":
        source = producers.get(node.input[0])
        squares = source is not None and (
            source.op_type == "Pow"
            or (source.op_type == "Mul" and source.input[0] == source.input[1])
        )
        if squares:
            yield "a decomposed normalisation (mean of squares): overflows in half precision"


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _integer_constants(graph: onnx.GraphProto) -> dict[str, int]:
    """Names of one-element int64 initialisers, to their value."""
    return {
        tensor.name: int(numpy_helper.to_array(tensor).reshape(-1)[0])
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and list(tensor.dims) in ([], [1])
    }

"""Multiply-accumulates of the graphs, counted at export: a deployment machine has no onnx.

What is counted is the graph as exported: convolutions, matrix products and the samples of
deformable attention. What a backend fuses or lays out anew later changes none of them; element-wise
work, normalisation, softmax and gathers are left out, as is the custom where operations of networks
are compared.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnxscript.optimizer import fold_constants_ir

from vpp_deploy.errors import ExportError
from vpp_deploy.manifests import StageOperations
from vpp_deploy.specs import PipelineSpec, StageSpec

Shape = tuple[int, ...]

_SHAPES_LIMIT_BYTES = 1024  # what is folded here are shapes, of a few numbers each

_BILINEAR_MACS = 4
_PRODUCTS = frozenset("MatMul Gemm Conv ConvTranspose Einsum".split())
_UNCOUNTED = frozenset("Attention DFT GRU If Loop LSTM RNN Scan STFT".split())


def count_pipeline(
    spec: PipelineSpec, folder: Path, files: Mapping[str, str]
) -> dict[str, StageOperations]:
    """Counts every stage, once a video runs and at its first frame.

    Args:
        spec: of the pipeline; an axis that varies is that of `spec.cold_start.keep`, or follows the
            frame.
        folder: of the graphs.
        files: stage to file name.

    Raises:
        ExportError: a graph has an operator that this count does not know.
    """
    return {
        stage.name: _count_stage(spec, stage, onnx.load(folder / files[stage.name]))
        for stage in spec.stages
    }


def count_float32_products(graph: onnx.ModelProto) -> int:
    """Convolutions and matrix products that give float32."""
    values = (*graph.graph.value_info, *graph.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return sum(
        node.op_type in _PRODUCTS and types.get(node.output[0]) == onnx.TensorProto.FLOAT
        for node in graph.graph.node
    )


def _count_stage(spec: PipelineSpec, stage: StageSpec, graph: onnx.ModelProto) -> StageOperations:
    start = spec.cold_start
    varies = start is not None and start.keep in [tensor.name for tensor in stage.inputs]
    if start is None or not varies:
        warm = count_macs(stage.name, graph, _frame_sizes(spec, stage))
        skipped = start is not None and stage.name in start.skip
        first = 0 if skipped else sum(warm.values())
        return StageOperations(sum(warm.values()), first, dict(warm))
    batch, num_kept = spec.tensor(start.keep).shape
    warm = count_macs(stage.name, graph, {start.keep: (batch, num_kept)})
    cold = count_macs(stage.name, graph, {start.keep: (batch, start.num_tokens)})
    return StageOperations(sum(warm.values()), sum(cold.values()), dict(warm))


def _frame_sizes(spec: PipelineSpec, stage: StageSpec) -> dict[str, Shape]:
    """Sizes of the inputs that follow the frame's: for a frame as large as the padded input."""
    _, height, width, _ = spec.tensor("frames").shape
    sizes = {"row_weights": height, "column_weights": width // 8}
    return {
        tensor.name: tuple(sizes[tensor.name] if size == -1 else size for size in tensor.shape)
        for tensor in stage.inputs
        if -1 in tensor.shape and tensor.name in sizes
    }


def count_macs(stage: str, graph: onnx.ModelProto, sizes: Mapping[str, Shape]) -> Counter[str]:
    """Multiply-accumulates of one call, by operator.

    Args:
        stage: its name, for messages.
        graph: lintable: one graph, no nested ones.
        sizes: shapes of the inputs that have an axis that varies.

    Raises:
        ExportError: an operator that this count does not know, or a shape that stays unknown.
    """
    graph = _with_sizes(graph, sizes)
    shapes = _shapes(graph)
    counts: Counter[str] = Counter()
    for node in graph.graph.node:
        if node.op_type in _UNCOUNTED:
            raise ExportError(
                f"the graph of {stage} has {node.op_type}, whose operations are not counted"
            )
        try:
            macs = _node_macs(node, shapes)
        except KeyError as error:
            raise ExportError(
                f"the graph of {stage} has {node.op_type} over {error}, whose shape is not known: "
                "its operations cannot be counted"
            ) from error
        if macs is not None:
            counts[node.op_type] += macs
    return counts


def _with_sizes(graph: onnx.ModelProto, sizes: Mapping[str, Shape]) -> onnx.ModelProto:
    """The graph with these input shapes, and every shape in it computed from them."""
    model = ir.from_proto(graph)
    for tensor in model.graph.inputs:
        shape = sizes.get(tensor.name or "")
        if shape is not None:
            tensor.shape = ir.Shape(shape)
    # The old annotations have the symbolic axis; folding must not trust them.
    plain = ir.to_proto(model)
    del plain.graph.value_info[:]
    model = ir.from_proto(plain)
    fold_constants_ir(
        model, input_size_limit=_SHAPES_LIMIT_BYTES, output_size_limit=_SHAPES_LIMIT_BYTES
    )
    folded = ir.to_proto(model)
    del folded.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(folded, strict_mode=True, data_prop=True)


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Name to shape, of every tensor whose shape is known in full."""
    graph = model.graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates of a node; None for an operator that has none.

    Raises:
        KeyError: a shape is not known.
    """
    inputs = node.input
    match node.op_type:
        case "MatMul" | "MatMulInteger" | "QLinearMatMul":
            return math.prod(shapes[node.output[0]]) * shapes[inputs[0]][-1]
        case "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return math.prod(shapes[node.output[0]]) * shapes[inputs[0]][0 if transposed else 1]
        case "Conv" | "ConvInteger":
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[inputs[1]][1:])
        case "QLinearConv":
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[inputs[3]][1:])
        case "DeformConv":
            return _deform_conv_macs(node, shapes)
        case "ConvTranspose":
            return math.prod(shapes[inputs[0]]) * math.prod(shapes[inputs[1]][1:])
        case "Einsum":
            return _einsum_macs(node, [shapes[name] for name in inputs])
    return None


def _deform_conv_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Four for each value that it samples, as the matrix products over gathered windows take.

    The weighted sum itself, one more, is the mask that those have in their weights.
    """
    out, weights = shapes[node.output[0]], shapes[node.input[1]]
    samples = math.prod(shapes[node.input[0]][:2]) * math.prod(weights[2:]) * math.prod(out[2:])
    return _BILINEAR_MACS * samples


def _einsum_macs(node: onnx.NodeProto, operands: list[Shape]) -> int:
    """Of a product of two tensors: every combination of their labels, once."""
    equation = next(a.s for a in node.attribute if a.name == "equation").decode()
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(operands) == 1:
        return 0
    if len(operands) > 2 or "." in equation:
        raise ExportError(
            f"the operations of the Einsum {equation!r} are not counted; write it with two "
            "operands and without an ellipsis"
        )
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())

"""Linear layers in int8, by ONNX Runtime's own dynamic quantisation."""

import ast
import tempfile
from pathlib import Path

import onnx

from vpp_deploy.errors import BackendError, ExportError
from vpp_deploy.export.graphs import quiet

_SCOPES = "pkg.torch.onnx.name_scopes"

_KEPT = (
    "selective_modules",
    "matching_module",
    "sampling_offsets",
    "attention_weights",
    "cls_embed",
    "mask_embedding",
)
"""Modules that stay in fp32.

They decide (which tokens run, where to look, what is found) from differences that are smaller than
a step of eight bits, and together do hardly any of the work.
"""


def quantize_linear_layers(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with int8 weights, a scale for each output channel, in all other linear layers.

    Their inputs are quantised to uint8 in every frame, by their own range. Convolutions,
    attention's own products and everything else stay in fp32: also the linear layers that are
    written with their weight first because they give planes (the values of deformable attention,
    the projections of the features), which ONNX Runtime does not quantise.

    Args:
        graph: as `export_graph` makes it.

    Raises:
        BackendError: ONNX Runtime is not installed.
        ExportError: a node does not say which module it is of.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise BackendError(
            "quantising to int8 needs ONNX Runtime; install vpp-deploy[export,cpu]"
        ) from error
    constants = {tensor.name for tensor in graph.graph.initializer}
    nodes = [
        node.name
        for node in graph.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants and not _is_kept(node)
    ]
    if not nodes:
        return graph
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "graph.onnx"
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DisableShapeInference": True},
        )
        return onnx.load(path)


def _is_kept(node: onnx.NodeProto) -> bool:
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), None)
    if scopes is None:
        raise ExportError(
            f"{node.name} does not say which module it is of ({_SCOPES}), so what must stay in "
            "fp32 is not known; export with the torch version of constraints.txt"
        )
    modules = {part for scope in ast.literal_eval(scopes) for part in scope.split(".")}
    return not modules.isdisjoint(_KEPT)

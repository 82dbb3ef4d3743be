"""A small pipeline with every kind of stage, made in an instant.

x (1, 4) comes from the host. `select` keeps the two places where x + memory is largest; `gather`
adds x up over the kept places (the class logits), and remembers 2 x; `spread` multiplies that sum
with weights, whose number varies.
"""

from typing import Any

import onnx
from onnx import TensorProto, helper

from vpp_deploy.specs import ColdStart, PipelineSpec, StageSpec, StateEdge, TensorSpec

X = TensorSpec("x", "float32", (1, 4))
MEMORY = TensorSpec("memory", "float32", (1, 4))
NEXT_MEMORY = TensorSpec("next_memory", "float32", (1, 4))
KEPT = TensorSpec("kept", "int64", (1, 2))
ANY_KEPT = TensorSpec("kept", "int64", (1, -1))
TOTAL = TensorSpec("class_logits", "float32", (1, 1))
ECHO = TensorSpec("echo", "float32", (1, 4))
WEIGHTS = TensorSpec("weights", "float32", (1, -1))
SPREAD = TensorSpec("spread", "float32", (1, -1))

SPEC = PipelineSpec(
    stages=(
        StageSpec("select", (X, MEMORY), (KEPT,)),
        StageSpec("gather", (X, ANY_KEPT), (TOTAL, NEXT_MEMORY, ECHO)),
        StageSpec("spread", (TOTAL, WEIGHTS), (SPREAD,)),
    ),
    state=(StateEdge("next_memory", "memory"),),
    cold_start=ColdStart(skip=("select",), keep="kept", num_tokens=4),
)
WARM = ("select", "gather", "spread")
COLD = ("gather", "spread")

NODES = {
    "select": [
        helper.make_node("Add", ["x", "memory"], ["score"]),
        helper.make_node("TopK", ["score", "two"], ["best", "kept"], axis=1),
    ],
    "gather": [
        helper.make_node("GatherElements", ["x", "kept"], ["chosen"], axis=1),
        helper.make_node("ReduceSum", ["chosen", "axis"], ["class_logits"]),
        helper.make_node("Add", ["x", "x"], ["next_memory"]),
        helper.make_node("Identity", ["x"], ["echo"]),
    ],
    "spread": [helper.make_node("Mul", ["class_logits", "weights"], ["spread"])],
}
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def info(spec: TensorSpec) -> Any:
    symbol = {"kept": "num_kept"}.get(spec.name, "num_weights")
    shape = [symbol if size == -1 else size for size in spec.shape]
    return helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], shape)


def open_small() -> dict[str, Any]:
    """An open ONNX Runtime session for each stage."""
    import onnxruntime

    found = {}
    for stage in SPEC.stages:
        constants = [
            helper.make_tensor("two", TensorProto.INT64, [1], [2]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ]
        used = {name for node in NODES[stage.name] for name in node.input}
        graph = helper.make_graph(
            NODES[stage.name],
            stage.name,
            [info(spec) for spec in stage.inputs],
            [info(spec) for spec in stage.outputs],
            [constant for constant in constants if constant.name in used],
        )
        model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])
        onnx.checker.check_model(model, full_check=True)
        found[stage.name] = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    return found

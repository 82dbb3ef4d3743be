"""Multiply-accumulates of single operators, by hand."""

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from vpp_deploy.errors import ExportError
from vpp_deploy.export.operations import count_macs

Shape = list[int | str]


def graph(
    operator: str,
    inputs: dict[str, Shape],
    kind: int = TensorProto.FLOAT,
    out_kind: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    node = helper.make_node(operator, list(inputs), ["y"], **attributes)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "graph",
            [helper.make_tensor_value_info(n, kind, shape) for n, shape in inputs.items()],
            [helper.make_tensor_value_info("y", out_kind or kind, None)],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        (graph("MatMul", {"a": [2, 3, 4], "b": [4, 5]}), 2 * 3 * 4 * 5),
        (graph("Gemm", {"a": [3, 4], "b": [4, 5], "c": [5]}), 3 * 4 * 5),
        (graph("Gemm", {"a": [4, 3], "b": [5, 4]}, transA=1, transB=1), 3 * 4 * 5),
        (graph("Conv", {"x": [1, 8, 10, 10], "w": [16, 8, 3, 3]}, pads=[1] * 4), 16 * 100 * 72),
        (graph("Conv", {"x": [1, 8, 10, 10], "w": [8, 1, 3, 3]}, group=8), 8 * 64 * 9),
        (graph("ConvTranspose", {"x": [1, 8, 5, 5], "w": [8, 4, 2, 2]}, strides=[2, 2]), 3200),
        (graph("Einsum", {"a": [2, 5, 4], "b": [2, 4, 7]}, equation="bqd, bdh -> bqh"), 280),
        (graph("Einsum", {"a": [2, 5, 4]}, equation="bqd->bdq"), 0),
        (
            graph(
                "MatMulInteger",
                {"a": [3, 4], "b": [4, 5]},
                TensorProto.UINT8,
                out_kind=TensorProto.INT32,
            ),
            60,
        ),
        # 2 groups of 3 channels, 4 taps, 5x7 outputs: the taps' sum, and 4 for each sample
        (
            graph(
                "DeformConv",
                {"x": [2, 3, 9, 9], "w": [3, 1, 1, 4], "o": [2, 8, 5, 7]},
                group=3,
                kernel_shape=[1, 4],
                strides=[2, 1],
                pads=[0, 0, 0, 1],
            ),
            2 * 3 * 35 * 4 * 4,
        ),
        (graph("Relu", {"a": [3, 4]}), 0),
    ],
    ids=lambda value: value.graph.node[0].op_type if isinstance(value, onnx.ModelProto) else "",
)
def test_by_hand(model: onnx.ModelProto, macs: int) -> None:
    assert count_macs("stage", model, {}).total() == macs


def test_quantised() -> None:
    scalars = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("z", TensorProto.UINT8, [], [0]),
    ]
    for operator, x, w, macs in (
        ("QLinearMatMul", [3, 4], [4, 5], 60),
        ("QLinearConv", [1, 2, 5, 5], [7, 2, 3, 3], 7 * 9 * 18),
    ):
        names = ["x", "s", "z", "w", "s", "z", "s", "z"]
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node(operator, names, ["y"])],
                "graph",
                [
                    helper.make_tensor_value_info("x", TensorProto.UINT8, x),
                    helper.make_tensor_value_info("w", TensorProto.UINT8, w),
                ],
                [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
                scalars,
            ),
            opset_imports=[helper.make_opsetid("", 20)],
        )
        assert count_macs("stage", model, {}) == {operator: macs}


def test_an_axis_that_varies() -> None:
    """Also where shapes are computed in the graph, as the exporter writes them."""
    nodes = [
        helper.make_node("Shape", ["kept"], ["shape"], start=1),
        helper.make_node("Concat", ["one", "shape", "width"], ["target"], axis=0),
        helper.make_node("Expand", ["row", "target"], ["wide"]),
        helper.make_node("Reshape", ["wide", "target"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [
                helper.make_tensor_value_info("kept", TensorProto.INT64, [1, "num_kept"]),
                helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, 1, 4]),
                helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 5]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "num_kept", 5])],
            [
                helper.make_tensor("one", TensorProto.INT64, [1], [1]),
                helper.make_tensor("width", TensorProto.INT64, [1], [4]),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    assert count_macs("stage", model, {"kept": (1, 7)}) == {"MatMul": 7 * 4 * 5}
    assert count_macs("stage", model, {"kept": (1, 20)}) == {"MatMul": 20 * 4 * 5}
    with pytest.raises(ExportError, match=r"MatMul over .* cannot be counted"):
        count_macs("stage", model, {})


@pytest.mark.parametrize(
    "model",
    [
        graph("LSTM", {"x": [3, 1, 4], "w": [1, 8, 4], "r": [1, 8, 2]}, hidden_size=2),
        graph("Einsum", {"a": [2, 3], "b": [3, 4], "c": [4, 5]}, equation="ab,bc,cd->ad"),
        graph("Einsum", {"a": [2, 3], "b": [3, 4]}, equation="...ab,bc->...ac"),
    ],
    ids=["LSTM", "three operands", "ellipsis"],
)
def test_what_is_not_counted_is_an_error(model: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="not counted"):
        count_macs("stage", model, {})

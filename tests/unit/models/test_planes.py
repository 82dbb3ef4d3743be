"""Deformable attention as the operator that graphs hold, run by ONNX Runtime."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vpp_deploy.export.graphs import export_graph
from vpp_deploy.models.deformable import (
    LevelSizes,
    MultiScaleDeformableAttention,
    Sampler,
    sample_deform_conv,
    sample_gather,
    sample_grid,
)
from vpp_deploy.models.pixel_decoder import FeedForward
from vpp_deploy.models.planes import output_grid
from vpp_deploy.models.positions import cell_centres
from vpp_deploy.specs import StageSpec, TensorSpec

SIZES: LevelSizes = ((2, 4), (4, 8), (8, 16))
WIDTH, HEADS, POINTS = 24, 3, 4


@given(
    num_queries=st.integers(1, 5000),
    level=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    points=st.integers(1, 8),
)
def test_the_convolution_gives_one_position_for_each_query(
    num_queries: int, level: tuple[int, int], points: int
) -> None:
    grid = output_grid(num_queries, level, points)
    assert grid.size[0] * grid.size[1] == num_queries
    for extent, kernel, out, stride, pad in zip(
        level, (1, points), grid.size, grid.strides, grid.pads, strict=True
    ):
        assert (extent + pad - kernel) // stride + 1 == out
    assert grid.taps(points).shape == (points, 2, num_queries)


class _Attending(nn.Module):
    def __init__(self, attention: MultiScaleDeformableAttention, queries: LevelSizes) -> None:
        super().__init__()
        self.attention = attention
        self.centres = cell_centres(queries)

    def forward(self, query_BQC: Tensor, value_BSC: Tensor) -> Tensor:
        attended: Tensor = self.attention(query_BQC, value_BSC, self.centres, SIZES)
        return attended


@pytest.mark.parametrize("sampler", [sample_deform_conv, sample_gather])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("queries", [SIZES, ((4, 8),), ((1, 7),)])
def test_the_graph_equals_pytorch(sampler: Sampler, batch: int, queries: LevelSizes) -> None:
    """Points are spread over the maps and well beyond their edges."""
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(
        WIDTH,
        HEADS,
        len(SIZES),
        POINTS,
        sample_deform_conv if sampler is sample_deform_conv else sample_gather,
    )
    nn.init.normal_(attention.sampling_offsets.bias, std=3.0)
    module = _Attending(attention, queries).eval().requires_grad_(False)
    num_queries = sum(height * width for height, width in queries)
    num_cells = sum(height * width for height, width in SIZES)
    spec = StageSpec(
        "attention",
        (
            TensorSpec("query", "float32", (batch, num_queries, WIDTH)),
            TensorSpec("value", "float32", (batch, num_cells, WIDTH)),
        ),
        (TensorSpec("attended", "float32", (batch, num_queries, WIDTH)),),
    )
    graph = export_graph(module, spec)
    operators = {node.op_type for node in graph.graph.node}
    assert ("DeformConv" in operators) == (sampler is sample_deform_conv)
    assert "GridSample" not in operators
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    query = torch.randn(batch, num_queries, WIDTH)
    value = torch.randn(batch, num_cells, WIDTH)
    (got,) = session.run(None, {"query": query.numpy(), "value": value.numpy()})
    attention.sampler = sample_grid
    np.testing.assert_allclose(got, module(query, value).numpy(), rtol=0, atol=1e-5)


def test_a_feed_forward_network_in_pieces() -> None:
    """Exported graphs for the CPU take some rows at a time; the last piece may be smaller."""
    torch.manual_seed(0)
    module = FeedForward(16, 32, rows_at_a_time=100).eval().requires_grad_(False)
    shape = (2, 250, 16)
    tensors = (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),)
    graph = export_graph(module, StageSpec("ffn", *tensors))
    assert sum(node.op_type == "MatMul" for node in graph.graph.node) == 6
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(shape)
    (got,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(got, module(x).numpy(), rtol=0, atol=1e-5)

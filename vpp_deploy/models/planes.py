"""Deformable attention as deformable convolutions over channel planes, for exported graphs.

ONNX's DeformConv samples each channel plane at learned offsets, bilinear and zero outside, times a
mask: with the heads as images, the points as a kernel of 1 x P taps and the queries as the output
grid, that is deformable attention on one level. ONNX Runtime's CPU kernel (1.25 and later) needs
neither tables nor gathered rows for it. PyTorch has no such operator: graphs alone hold it.

Shapes: B batch, Q queries = oh * ow, C width, S cells of all levels, L levels, P points, M heads,
D = C/M width of a head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPERATOR_VERSION = 19


@dataclass(frozen=True)
class OutputGrid:
    """A convolution whose output positions are the queries.

    Attributes:
        size: (oh, ow), oh * ow = Q.
        strides: along y and x.
        pads: rows below and columns to the right of the level.
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]

    def taps(self, num_points: int) -> Tensor:
        """(P, 2, Q) where the operator puts each tap before its offset is added, (y, x)."""
        y = torch.arange(self.size[0]) * self.strides[0]
        x = torch.arange(self.size[1]) * self.strides[1]
        corners_2Q = torch.stack(torch.meshgrid(y, x, indexing="ij")).flatten(1)
        along_x_P2 = F.pad(torch.arange(num_points)[:, None], (1, 0))
        return (corners_2Q[None] + along_x_P2[:, :, None]).to(torch.float32)


def output_grid(num_queries: int, level_size: tuple[int, int], num_points: int) -> OutputGrid:
    """The grid, as square as the number of queries allows, and how a level's convolution makes it.

    The squarer it is, the smaller the coordinates, and the less of an offset is rounded away.
    """
    oh = max(d for d in range(1, math.isqrt(num_queries) + 1) if num_queries % d == 0)
    ow = num_queries // oh
    stride_y, below = _fit(level_size[0], 1, oh)
    stride_x, right = _fit(level_size[1], num_points, ow)
    return OutputGrid((oh, ow), (stride_y, stride_x), (below, right))


def _fit(extent: int, kernel: int, out: int) -> tuple[int, int]:
    """Stride and padding behind, so that `extent` cells give `out` positions."""
    stride = max(1, (extent - kernel) // out + 1)
    return stride, max(0, (out - 1) * stride + kernel - extent)


def sample_in_graph(
    offsets_BKQ: Tensor,
    weights_BMLPQ: Tensor,
    value_BCS: Tensor,
    reference_Q2: Tensor,
    level_sizes: tuple[tuple[int, int], ...],
) -> Tensor:
    """Weighted sum over levels and points of bilinear samples, (B, C, Q); at export only.

    Args:
        offsets_BKQ: in cells; K counts levels, heads, points and (y, x), in this order.
        weights_BMLPQ: attention weights.
        value_BCS: planes of all levels, level after level; a head's channels are contiguous.
        reference_Q2: (x, y) of each query in [0, 1].
        level_sizes: (height, width) of each level.
    """
    assert torch.compiler.is_exporting(), "PyTorch has no deformable convolution"
    batch, heads, _, points, queries = weights_BMLPQ.shape
    width = value_BCS.shape[1] // heads
    offsets = torch.chunk(offsets_BKQ, len(level_sizes), dim=1)
    planes = torch.split(value_BCS, [height * breadth for height, breadth in level_sizes], dim=2)
    ones, zeros = value_BCS.new_ones(width, 1, 1, points), value_BCS.new_zeros(width)
    summed_NDQ = None
    for level, size in enumerate(level_sizes):
        grid = output_grid(queries, size, points)
        extent_2 = torch.tensor([size[1], size[0]], device=reference_Q2.device)
        cells_Q2 = reference_Q2 * extent_2 - 0.5
        base_P2Q = cells_Q2.flip(1).T[None] - grid.taps(points).to(reference_Q2.device)
        moved = offsets[level].reshape(batch * heads, points * 2, queries) + base_P2Q.flatten(0, 1)
        sampled = torch.onnx.ops.symbolic(
            "DeformConv",
            (
                planes[level].reshape(batch * heads, width, *size),
                ones,
                moved.reshape(batch * heads, points * 2, *grid.size),
                zeros,
                weights_BMLPQ[:, :, level].reshape(batch * heads, points, *grid.size),
            ),
            {
                "kernel_shape": [1, points],
                "strides": list(grid.strides),
                "pads": [0, 0, *grid.pads],
                "group": width,
            },
            dtype=value_BCS.dtype,
            shape=(batch * heads, width, *grid.size),
            version=_OPERATOR_VERSION,
        )
        sampled_NDQ = sampled.reshape(batch * heads, width, queries)
        summed_NDQ = sampled_NDQ if summed_NDQ is None else summed_NDQ + sampled_NDQ
    assert summed_NDQ is not None
    return summed_NDQ.reshape(batch, heads * width, queries)


def project_planes(x_BSC: Tensor, linear: nn.Linear, order: Tensor | None = None) -> Tensor:
    """`linear` applied to the last axis, its output as planes (B, out, S).

    Args:
        x_BSC: input.
        linear: with bias.
        order: (out,) rows of the result in terms of the layer's outputs.
    """
    rows = slice(None) if order is None else order
    return linear.weight[rows] @ x_BSC.transpose(1, 2) + linear.bias[rows, None]

"""Multi-scale deformable attention, with samplers that give the same results (MODEL.md 2.1).

Sampling positions are counted in cells of their level, (x, y), with integers at cell centres: the
reference's normalised position p is p * (width, height) - 0.5. So offsets, which the reference
divides by (width, height), are added as they are, and what is left of the reference points is a
constant.

Shapes: B batch, Q queries, C width, S cells of all levels, L levels, P points, M heads,
D = C/M width of a head.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.planes import project_planes, sample_in_graph

LevelSizes = tuple[tuple[int, int], ...]
"""(height, width) of each level, in the order in which their cells are concatenated."""

Sampler = Callable[[Tensor, LevelSizes, Tensor, Tensor], Tensor]
"""(value_BSMD, level_sizes, cells_BQMLP2, weights_BQMLP) -> (B, Q, C).

The weighted sum over levels and points of bilinear samples, zero outside of the maps.
"""


def sample_grid(
    value_BSMD: Tensor, level_sizes: LevelSizes, cells_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Samples with `grid_sample`: the reference, and the faster one in eager PyTorch.

    Args:
        value_BSMD: values of the levels' cells, level after level, row by row.
        level_sizes: (height, width) of each level.
        cells_BQMLP2: positions (x, y) in cells of each level.
        weights_BQMLP: attention weights.

    Returns:
        (B, Q, C), C = M*D.
    """
    batch, _, heads, width = value_BSMD.shape
    queries = cells_BQMLP2.shape[1]
    parts = torch.split(value_BSMD, [height * width for height, width in level_sizes], dim=1)
    summed_NDQ = value_BSMD.new_zeros(batch * heads, width, queries)
    for level, (part_BSMD, size) in enumerate(zip(parts, level_sizes, strict=True)):
        map_NDHW = part_BSMD.permute(0, 2, 3, 1).reshape(batch * heads, width, *size)
        cells_NQP2 = cells_BQMLP2[:, :, :, level].transpose(1, 2).flatten(0, 1)
        weights_NQP = weights_BQMLP[:, :, :, level].transpose(1, 2).flatten(0, 1)
        extent_2 = torch.tensor([size[1], size[0]], device=cells_NQP2.device)
        grid_NQP2 = ((2 * cells_NQP2 + 1) / extent_2 - 1).to(map_NDHW.dtype)
        sampled_NDQP = F.grid_sample(
            map_NDHW, grid_NQP2, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        summed_NDQ = summed_NDQ + (sampled_NDQP * weights_NQP[:, None]).sum(3)
    return summed_NDQ.reshape(batch, heads * width, queries).transpose(1, 2)


def sample_gather(
    value_BSMD: Tensor, level_sizes: LevelSizes, cells_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Samples by gathered rows: for exports that TensorRT is to read.

    TensorRT from 10.13 up to 11.1 miscompiles this operation when it is written with GridSample
    (NVIDIA/TensorRT#4813).

    Every 2x2 window of a level, its border of zeros included, is one row of a table. So a point
    costs one gathered row, and nothing has to be masked: a point outside of the map is moved to
    the border's outer edge, where its window's weights select zeros alone.

    Args:
        value_BSMD: values of the levels' cells, level after level, row by row.
        level_sizes: (height, width) of each level.
        cells_BQMLP2: positions (x, y) in cells of each level; float32, for they become indices.
        weights_BQMLP: attention weights.

    Returns:
        (B, Q, C), C = M*D.
    """
    batch, _, heads, width = value_BSMD.shape
    rows_BQMLP, weights_BQMLP4 = _window_rows(level_sizes, cells_BQMLP2, weights_BQMLP)
    parts = torch.split(value_BSMD, [height * width for height, width in level_sizes], dim=1)
    queries, points = cells_BQMLP2.shape[1], cells_BQMLP2.shape[4]
    summed_N1D = value_BSMD.new_zeros(batch * queries * heads, 1, width)
    for level, (part_BSMD, size) in enumerate(zip(parts, level_sizes, strict=True)):
        rows_N = rows_BQMLP[:, :, :, level].flatten()
        gathered = _window_table(part_BSMD, size).index_select(0, rows_N)
        # A small matrix product for each query and head: ONNX Runtime's CPU kernels run it twice
        # as fast as one gather, product and sum for each of the four corners.
        weights_N1K = weights_BQMLP4[:, :, :, level].to(gathered.dtype).reshape(-1, 1, points * 4)
        summed_N1D = summed_N1D + weights_N1K @ gathered.reshape(-1, points * 4, width)
    return summed_N1D.reshape(batch, queries, heads * width)


def _window_rows(
    level_sizes: LevelSizes, cells_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> tuple[Tensor, Tensor]:
    """For each point the row of its level's table (int32), and the weights of the row's cells.

    Window (x, y) spans the columns x - 1 and x and the rows y - 1 and y, of which -1 and the
    level's extent are the border.
    """
    device = cells_BQMLP2.device
    extent_L12 = torch.tensor([[(width, height)] for height, width in level_sizes], device=device)
    position_BQMLP2 = cells_BQMLP2.clamp(min=-1).minimum(extent_L12)
    first_BQMLP2 = position_BQMLP2.floor().minimum(extent_L12 - 1)
    right, bottom = (position_BQMLP2 - first_BQMLP2).unbind(5)
    left, top = 1 - right, 1 - bottom
    shares_BQMLP4 = torch.stack((top * left, top * right, bottom * left, bottom * right), dim=5)

    batch, _, heads = cells_BQMLP2.shape[:3]
    stream_B1111 = torch.arange(batch, dtype=torch.int32, device=device).reshape(-1, 1, 1, 1, 1)
    head_M11 = torch.arange(heads, dtype=torch.int32, device=device).reshape(-1, 1, 1)
    num_x_L1, num_y_L1 = (extent_L12 + 1).to(torch.int32).unbind(2)
    x_BQMLP, y_BQMLP = (first_BQMLP2 + 1).to(torch.int32).unbind(5)
    window_BQMLP = (stream_B1111 * num_y_L1 + y_BQMLP) * num_x_L1 + x_BQMLP
    return window_BQMLP * heads + head_M11, shares_BQMLP4 * weights_BQMLP[..., None]


def _window_table(value_BSMD: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows (B * (h+1) * (w+1) * M, 4*D): each window's cells, top left to bottom right."""
    height, width = size
    maps_BhwMD = value_BSMD.reshape(value_BSMD.shape[0], height, width, *value_BSMD.shape[2:])
    padded = F.pad(maps_BhwMD, (0, 0, 0, 0, 1, 1, 1, 1))
    cells = [padded[:, y : y + height + 1, x : x + width + 1] for y in (0, 1) for x in (0, 1)]
    return torch.cat(cells, dim=-1).flatten(0, 3)


def sample_deform_conv(
    value_BSMD: Tensor, level_sizes: LevelSizes, cells_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Samples by deformable convolutions in exported graphs, with `grid_sample` in PyTorch.

    The fastest in ONNX Runtime on the CPU; see `planes.py`, which lays out its tensors otherwise.
    Arguments and result are those of `sample_grid`.
    """
    return sample_grid(value_BSMD, level_sizes, cells_BQMLP2, weights_BQMLP)


class MultiScaleDeformableAttention(nn.Module):
    """Each query looks at a few points around its reference point, on every level.

    It returns output_proj(sampled) alone: identities and residuals are its callers' business.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        points: int,
        sampler: Sampler = sample_grid,
    ) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampler = sampler
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(
        self, query_BQC: Tensor, value_BSC: Tensor, reference_Q2: Tensor, level_sizes: LevelSizes
    ) -> Tensor:
        """Attention of the queries, (B, Q, C).

        Args:
            query_BQC: decides on offsets and weights (a position is the caller's to add).
            value_BSC: cells of all levels, level after level, row by row.
            reference_Q2: (x, y) of each query in [0, 1], the same on every level; float32.
            level_sizes: (height, width) of each level.
        """
        if self.sampler is sample_deform_conv and torch.compiler.is_exporting():
            sampled_BQC = self._sample_planes(query_BQC, value_BSC, reference_Q2, level_sizes)
        else:
            sampled_BQC = self._sample_rows(query_BQC, value_BSC, reference_Q2, level_sizes)
        output_BQC: Tensor = self.output_proj(sampled_BQC)
        return output_BQC

    def _sample_rows(
        self, query_BQC: Tensor, value_BSC: Tensor, reference_Q2: Tensor, level_sizes: LevelSizes
    ) -> Tensor:
        batch, queries, width = query_BQC.shape
        layout = (batch, queries, self.heads, self.levels, self.points)
        extent_L2 = torch.tensor([(w, h) for h, w in level_sizes], device=reference_Q2.device)
        base_QL2 = reference_Q2[:, None] * extent_L2 - 0.5
        offsets_BQMLP2 = self.sampling_offsets(query_BQC).reshape(*layout, 2)
        cells_BQMLP2 = offsets_BQMLP2 + base_QL2[:, None, :, None]
        weights_BQMLP = self._weights(query_BQC).reshape(layout)
        value_BSMD = self.value_proj(value_BSC).reshape(batch, -1, self.heads, width // self.heads)
        return self.sampler(value_BSMD, level_sizes, cells_BQMLP2, weights_BQMLP)

    def _sample_planes(
        self, query_BQC: Tensor, value_BSC: Tensor, reference_Q2: Tensor, level_sizes: LevelSizes
    ) -> Tensor:
        batch, queries = query_BQC.shape[:2]
        # The layer's outputs run over heads, levels, points, (x, y); planes want level first, y
        # before x.
        layout = (self.heads, self.levels, self.points, 2)
        order = torch.arange(math.prod(layout)).reshape(layout).flip(3).transpose(0, 1).flatten()
        offsets_BKQ = project_planes(query_BQC, self.sampling_offsets, order)
        weights_BMKQ = self._weights(query_BQC).permute(0, 2, 3, 1)
        weights_BMLPQ = weights_BMKQ.reshape(batch, *layout[:3], queries)
        value_BCS = project_planes(value_BSC, self.value_proj)
        sampled_BCQ = sample_in_graph(
            offsets_BKQ, weights_BMLPQ, value_BCS, reference_Q2, level_sizes
        )
        return sampled_BCQ.transpose(1, 2)

    def _weights(self, query_BQC: Tensor) -> Tensor:
        """Softmax over levels and points, (B, Q, M, L*P)."""
        logits_BQK: Tensor = self.attention_weights(query_BQC)
        return logits_BQK.reshape(*query_BQC.shape[:2], self.heads, -1).softmax(3)

"""Both samplers against each other and against loops written from MODEL.md 2.1."""

import math

import pytest
import torch
from torch import Tensor

from vpp_deploy.models.deformable import (
    LevelSizes,
    MultiScaleDeformableAttention,
    Sampler,
    sample_gather,
    sample_grid,
)
from vpp_deploy.models.positions import cell_centres

SIZES: LevelSizes = ((2, 3), (5, 4))
SAMPLERS = (sample_grid, sample_gather)


def _map_value(level: Tensor, x: float, y: float) -> Tensor:
    """Bilinear sample of (h, w, D) at (x, y) in cells, zero outside."""
    height, width, channels = level.shape
    value = torch.zeros(channels, dtype=level.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * level[row, column]
    return value


def _naive(
    attention: MultiScaleDeformableAttention, query: Tensor, value: Tensor, reference: Tensor
) -> Tensor:
    batch, queries, width = query.shape
    heads, points = attention.heads, attention.points
    depth = width // heads
    offsets = attention.sampling_offsets(query)
    offsets = offsets.reshape(batch, queries, heads, len(SIZES), points, 2)
    weights = attention.attention_weights(query).reshape(batch, queries, heads, -1).softmax(3)
    projected = attention.value_proj(value)
    sampled = torch.zeros(batch, queries, width)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                channels = slice(m * depth, (m + 1) * depth)
                start = 0
                for i, (height, width_l) in enumerate(SIZES):
                    cells = projected[b, start : start + height * width_l, channels]
                    level = cells.reshape(height, width_l, depth)
                    start += height * width_l
                    for p in range(points):
                        normalised = reference[q] + offsets[b, q, m, i, p] / torch.tensor(
                            [width_l, height]
                        )
                        x = float(normalised[0]) * width_l - 0.5
                        y = float(normalised[1]) * height - 0.5
                        weight = weights[b, q, m, i * points + p]
                        sampled[b, q, channels] += weight * _map_value(level, x, y)
    result: Tensor = attention.output_proj(sampled)
    return result


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_attention_equals_loops(sampler: Sampler, batch: int) -> None:
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(12, 3, len(SIZES), 2, sampler)
    # Spread the points over the maps and well beyond their edges.
    torch.nn.init.normal_(attention.sampling_offsets.bias, std=3.0)
    query = torch.randn(batch, 7, 12)
    value = torch.randn(batch, sum(height * width for height, width in SIZES), 12)
    reference = torch.rand(7, 2)
    with torch.no_grad():
        expected = _naive(attention, query, value, reference)
        torch.testing.assert_close(attention(query, value, reference, SIZES), expected)


def test_the_samplers_agree_everywhere() -> None:
    torch.manual_seed(1)
    sizes = ((3, 5), (6, 10), (12, 20))
    cells = torch.randn(3, 50, 4, 3, 4, 2) * 10 + 4
    cells[0] = cells[0].round()
    # On the edges, half a cell and one cell beyond them, and absurdly far away.
    for i, place in enumerate((-1e30, -1e6, -1.0, -0.5, 0.0, 2.0, 2.5, 3.0, 5.0, 20.0, 1e6, 1e30)):
        cells[1, i] = place
        cells[1, 20 + i, ..., 1] = place
    weights = torch.rand(3, 50, 4, 3, 4)
    value = torch.randn(3, sum(height * width for height, width in sizes), 4, 8)
    grid = sample_grid(value, sizes, cells, weights)
    gather = sample_gather(value, sizes, cells, weights)
    assert gather.isfinite().all()
    torch.testing.assert_close(gather, grid, rtol=0, atol=2e-5)
    for b in range(3):
        alone = sample_gather(value[b : b + 1], sizes, cells[b : b + 1], weights[b : b + 1])
        torch.testing.assert_close(gather[b : b + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_lies_outside_is_zero(sampler: Sampler) -> None:
    value = torch.ones(1, 6, 1, 4)
    cells = torch.tensor([[-1.0, 0.0], [3.0, 0.0], [0.0, -7.0], [1.0, 2.0], [1.0, 1.0]])
    sampled = sampler(value, ((2, 3),), cells.reshape(1, 5, 1, 1, 1, 2), torch.ones(1, 5, 1, 1, 1))
    assert sampled[0, :, 0].tolist() == pytest.approx([0, 0, 0, 0, 1], abs=1e-6)


def test_points_at_cell_centres_read_the_cells() -> None:
    value = torch.randn(1, 26, 1, 4)
    centres = cell_centres(SIZES)
    for level, start, (height, width) in ((0, 0, SIZES[0]), (1, 6, SIZES[1])):
        stop = start + height * width
        cells = centres[start:stop] * torch.tensor([width, height]) - 0.5
        both = cells.reshape(1, -1, 1, 1, 1, 2).expand(-1, -1, -1, 2, -1, -1)
        weights = torch.zeros(1, stop - start, 1, 2, 1)
        weights[:, :, :, level] = 1
        sampled = sample_gather(value, SIZES, both, weights)
        torch.testing.assert_close(sampled, value[:, start:stop, 0], rtol=0, atol=1e-5)

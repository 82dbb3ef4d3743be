"""Where cells are: sine position encoding and reference points (MODEL.md 3).

Both depend on the input size alone, so exports fold them into constants.

Shapes: h w a level's size, S cells of all levels, C width of the encoding.
"""

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000
_EPS = 1e-6


def sine_encoding(size: tuple[int, int], width: int) -> Tensor:
    """Sine position encoding of a level's cells, (1, h*w, C).

    The first half of the channels encodes y, the second half x; sine and cosine alternate.

    Args:
        size: (h, w).
        width: C, a multiple of 4.
    """
    height, breadth = size
    y_hC = _encode_axis(height, width // 2)[:, None].expand(-1, breadth, -1)
    x_wC = _encode_axis(breadth, width // 2)[None].expand(height, -1, -1)
    return torch.cat((y_hC, x_wC), dim=2).reshape(1, height * breadth, width)


def _encode_axis(extent: int, width: int) -> Tensor:
    """(extent, width): positions 1 to extent, normalised to 2*pi."""
    position = torch.arange(1, extent + 1, dtype=torch.float32) / (extent + _EPS) * (2 * math.pi)
    channel = torch.arange(width, dtype=torch.float32)
    period = _TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / width)
    angle = position[:, None] / period
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)


def cell_centres(level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """(S, 2): centres (x, y) in [0, 1] of the cells of levels (h, w), level after level."""
    levels = []
    for height, width in level_sizes:
        y_h = (torch.arange(height, dtype=torch.float32) + 0.5) / height
        x_w = (torch.arange(width, dtype=torch.float32) + 0.5) / width
        y_hw, x_hw = torch.meshgrid(y_h, x_w, indexing="ij")
        levels.append(torch.stack((x_hw, y_hw), dim=2).flatten(0, 1))
    return torch.cat(levels)

"""Injectors and extractors: how the ViT's tokens and the pyramid's tokens meet (MODEL.md 2.1).

Shapes: B batch, N = h*w patch tokens, M = 5.25 N pyramid tokens at 1/8, 1/16, 1/32, C width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.deformable import LevelSizes, MultiScaleDeformableAttention, Sampler
from vpp_deploy.models.selectors import MapSelector

_EPS = 1e-6


def pyramid_sizes(grid: tuple[int, int]) -> LevelSizes:
    """(height, width) of the pyramid's levels at 1/8, 1/16 and 1/32."""
    h, w = grid
    return (2 * h, 2 * w), (h, w), (h // 2, w // 2)


def split_levels(x_BMC: Tensor, sizes: LevelSizes) -> list[Tensor]:
    """Tokens of several levels back to maps (B, C, height, width)."""
    parts = torch.split(x_BMC, [height * width for height, width in sizes], dim=1)
    return [
        part.transpose(1, 2).reshape(part.shape[0], -1, *size)
        for part, size in zip(parts, sizes, strict=True)
    ]


class Injector(nn.Module):
    """x <- x + gamma * MSDA(query = LN(x), value = LN(c)), where MSDA adds its query."""

    def __init__(self, config: ModelConfig, sampler: Sampler) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.feat_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.attn = MultiScaleDeformableAttention(
            config.width, config.adapter_heads, 3, config.adapter_points, sampler
        )
        self.gamma = nn.Parameter(torch.zeros(config.width))

    def forward(
        self, x_BNC: Tensor, c_BMC: Tensor, centres_N2: Tensor, sizes: LevelSizes
    ) -> Tensor:
        """`centres_N2` are the patch centres, `sizes` the pyramid's levels."""
        query = self.query_norm(x_BNC)
        attended = self.attn(query, self.feat_norm(c_BMC), centres_N2, sizes)
        out_BNC: Tensor = x_BNC + self.gamma * (attended + query)
        return out_BNC


class DepthwiseConv(nn.Module):
    """The 3x3 depthwise convolution inside an extractor's FFN, on each level's map alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x_BMC: Tensor, sizes: LevelSizes) -> Tensor:
        """Tokens in, tokens out."""
        maps = [self.dwconv(level) for level in split_levels(x_BMC, sizes)]
        return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)


class ConvFfn(nn.Module):
    """Linear, depthwise convolution, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BMC: Tensor, sizes: LevelSizes) -> Tensor:
        """`sizes` are the levels of the pyramid."""
        out_BMC: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(x_BMC), sizes)))
        return out_BMC


class Extractor(nn.Module):
    """c <- c + MSDA(query = LN(c), value = LN(x)), then c <- c + FFN(LN(c))."""

    def __init__(self, config: ModelConfig, sampler: Sampler) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.feat_norm = nn.LayerNorm(config.width, eps=_EPS)
        self.attn = MultiScaleDeformableAttention(
            config.width, config.adapter_heads, 1, config.adapter_points, sampler
        )
        self.ffn = ConvFfn(config.width, config.adapter_ffn_width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=_EPS)

    def forward(
        self,
        c_BMC: Tensor,
        x_BNC: Tensor,
        cells_M2: Tensor,
        grid: tuple[int, int],
        sizes: LevelSizes,
    ) -> Tensor:
        """`cells_M2` are the centres of the pyramid's cells, `grid` is (h, w)."""
        query = self.query_norm(c_BMC)
        c_BMC = c_BMC + self.attn(query, self.feat_norm(x_BNC), cells_M2, (grid,)) + query
        ffn_BMC: Tensor = self.ffn(self.ffn_norm(c_BMC), sizes)
        return c_BMC + ffn_BMC


class Interaction(nn.Module):
    """Injector, (blocks,) extractor; Map-SM in the first one, extra extractors in the last."""

    def __init__(
        self,
        config: ModelConfig,
        sampler: Sampler,
        extra_extractors: int = 0,
        map_selector: MapSelector | None = None,
    ) -> None:
        super().__init__()
        self.injector = Injector(config, sampler)
        self.extractor = Extractor(config, sampler)
        self.extra_extractors = nn.ModuleList(
            Extractor(config, sampler) for _ in range(extra_extractors)
        )
        self.matching_module = map_selector

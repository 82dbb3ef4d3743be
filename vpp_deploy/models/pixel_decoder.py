"""Pixel decoder: deformable encoder over 1/32 to 1/8, and mask features at 1/4 (MODEL.md 3).

The modules' names are those of the published weights.

Shapes: B batch, C backbone width, D head width, S cells at 1/32, 1/16 and 1/8 together, h w sizes
of maps. Levels are ordered from low to high resolution.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.deformable import (
    LevelSizes,
    MultiScaleDeformableAttention,
    Sampler,
    sample_deform_conv,
    sample_grid,
)
from vpp_deploy.models.positions import cell_centres, sine_encoding

_LEVELS = 3
_GROUPS = 32

_ROWS_AT_A_TIME = 1536
"""Of a feed-forward network in graphs for the CPU, the ones with DeformConv: its hidden activations
stay in the cache (ONNX Runtime 1.32, 2 cores: 4 % of the head's time)."""


class FeedForward(nn.Module):
    """Linear, ReLU, linear, and the residual around them."""

    def __init__(self, width: int, hidden: int, rows_at_a_time: int | None = None) -> None:
        """`rows_at_a_time`: how many rows exported graphs take at a time; None: all."""
        super().__init__()
        self.rows_at_a_time = rows_at_a_time
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU()), nn.Linear(hidden, width)
        )

    def forward(self, x_BSD: Tensor) -> Tensor:
        """The input plus its transform."""
        rows = self.rows_at_a_time if torch.compiler.is_exporting() else None
        parts = torch.split(x_BSD, rows or x_BSD.shape[1], dim=1)
        return x_BSD + torch.cat([self.layers(part) for part in parts], dim=1)


class ConvNorm(nn.Module):
    """Convolution that keeps the size, then GroupNorm."""

    def __init__(self, in_width: int, out_width: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=bias)
        self.gn = nn.GroupNorm(_GROUPS, out_width)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """(B, D, h, w); an activation is the caller's to add."""
        return self.norm(self.conv(x_BChw))

    def norm(self, y_BDhw: Tensor) -> Tensor:
        """What follows the convolution; in the type of the norm's weights, and back."""
        normed_BDhw: Tensor = self.gn(y_BDhw.to(self.gn.weight.dtype)).to(y_BDhw.dtype)
        return normed_BDhw


class EncoderLayer(nn.Module):
    """Post-norm: q <- LN(q + MSDA(q + position, q)), then q <- LN(q + FFN(q))."""

    def __init__(self, config: ModelConfig, sampler: Sampler) -> None:
        super().__init__()
        width = config.head_width
        self.attentions = nn.ModuleList(
            [
                MultiScaleDeformableAttention(
                    width, config.pixel_heads, _LEVELS, config.pixel_points, sampler
                )
            ]
        )
        rows = _ROWS_AT_A_TIME if sampler is sample_deform_conv else None
        self.ffns = nn.ModuleList([FeedForward(width, config.pixel_ffn_width, rows)])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(
        self, query_BSD: Tensor, position_1SD: Tensor, centres_S2: Tensor, level_sizes: LevelSizes
    ) -> Tensor:
        """(B, S, D). The position decides where to look; it enters no value and no residual."""
        attended = self.attentions[0](query_BSD + position_1SD, query_BSD, centres_S2, level_sizes)
        query_BSD = self.norms[0](query_BSD + attended)
        output_BSD: Tensor = self.norms[1](self.ffns[0](query_BSD))
        return output_BSD


class Encoder(nn.Module):
    """The stack of encoder layers."""

    def __init__(self, config: ModelConfig, sampler: Sampler) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config, sampler) for _ in range(config.pixel_layers)
        )

    def forward(self, query_BSD: Tensor, position_1SD: Tensor, level_sizes: LevelSizes) -> Tensor:
        """(B, S, D); reference points are the cells' centres."""
        centres_S2 = cell_centres(level_sizes).to(query_BSD.device)
        for layer in self.layers:
            query_BSD = layer(query_BSD, position_1SD, centres_S2, level_sizes)
        return query_BSD


class PixelDecoder(nn.Module):
    """From the backbone's four maps to mask features and the transformer decoder's memory."""

    def __init__(self, config: ModelConfig, sampler: Sampler = sample_grid) -> None:
        super().__init__()
        width = config.head_width
        self.input_convs = nn.ModuleList(
            ConvNorm(config.width, width, 1, bias=True) for _ in range(_LEVELS)
        )
        self.encoder = Encoder(config, sampler)
        self.level_encoding = nn.Embedding(_LEVELS, width)
        self.lateral_convs = nn.ModuleList([ConvNorm(config.width, width, 1, bias=False)])
        self.output_convs = nn.ModuleList([ConvNorm(width, width, 3, bias=False)])
        self.mask_feature = nn.Conv2d(width, width, 1)

    @property
    def projections(self) -> tuple[ConvNorm, ConvNorm, ConvNorm, ConvNorm]:
        """The 1x1 convolutions and norms that f1 to f4 go into, at strides 4 to 32."""
        at_32, at_16, at_8 = self.input_convs
        at_4 = self.lateral_convs[0]
        assert isinstance(at_4, ConvNorm)
        assert isinstance(at_8, ConvNorm)
        assert isinstance(at_16, ConvNorm)
        assert isinstance(at_32, ConvNorm)
        return at_4, at_8, at_16, at_32

    def forward(
        self, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Decode one frame of each stream.

        Args:
            f1: (B, C, H/4, W/4) of the backbone; `f2`, `f3`, `f4` at 1/8, 1/16 and 1/32.
            f2: at 1/8.
            f3: at 1/16.
            f4: at 1/32.

        Returns:
            Mask features (B, D, H/4, W/4) and the memory: maps (B, D, h, w) at 1/32, 1/16, 1/8.
        """
        at_4, at_8, at_16, at_32 = self.projections
        memory = self.encode((at_32(f4), at_16(f3), at_8(f2)))
        fine = self.fuse(at_4(f1), memory[2])
        return self.mask_feature(fine), memory

    def encode(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The memory, from the normalised levels at 1/32, 1/16, 1/8; all maps (B, D, h, w)."""
        sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        query_BSD = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        encoded_BSD = self.encoder(query_BSD, self._position(sizes), sizes)
        parts = torch.split(encoded_BSD, [height * width for height, width in sizes], dim=1)
        at_32, at_16, at_8 = (
            part.transpose(1, 2).reshape(part.shape[0], part.shape[2], *size)
            for part, size in zip(parts, sizes, strict=True)
        )
        return at_32, at_16, at_8

    def fuse(self, lateral_BDHW: Tensor, at_8: Tensor) -> Tensor:
        """What `mask_feature` is applied to, (B, D, H/4, W/4)."""
        size = (lateral_BDHW.shape[2], lateral_BDHW.shape[3])
        enlarged = F.interpolate(at_8, size=size, mode="bilinear", align_corners=False)
        return F.relu(self.output_convs[0](lateral_BDHW + enlarged))

    def _position(self, sizes: LevelSizes) -> Tensor:
        """(1, S, D): sine encoding plus level encoding."""
        weight_LD = self.level_encoding.weight
        return torch.cat(
            [
                sine_encoding(size, weight_LD.shape[1]).to(weight_LD) + weight_LD[level]
                for level, size in enumerate(sizes)
            ],
            dim=1,
        )

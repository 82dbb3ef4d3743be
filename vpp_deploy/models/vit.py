"""The plain ViT underneath: patch embedding, position embedding, pre-norm encoder blocks.

Shapes: B batch, H W input pixels, h w patch grid, N = h*w tokens, K tokens that run, C width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel: one token for each patch (MODEL.md 2.1)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Returns tokens (B, N, C), row by row."""
        return torch.flatten(self.proj(image_B3HW), 2).transpose(1, 2)


def resize_position_embedding(pos_embed_1GC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Stored position embedding, without its class-token entry, resized to `grid` (MODEL.md 2.1).

    Args:
        pos_embed_1GC: (1, 1 + side*side, C).
        grid: (h, w).

    Returns:
        (1, N, C).
    """
    side = round((pos_embed_1GC.shape[1] - 1) ** 0.5)
    stored = pos_embed_1GC[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(stored, size=grid, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self attention with one joint projection to q, k and v."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BKC: Tensor) -> Tensor:
        """Attention among the K tokens given."""
        batch, tokens, width = x_BKC.shape
        qkv = self.qkv(x_BKC).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        """Acts on the last axis."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm encoder layer (MODEL.md 2.1). `eps` is 1e-5 in VPP, 1e-6 in dense models."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width)

    def forward(self, x_BKC: Tensor) -> Tensor:
        """Runs the block on the K tokens given; they alone attend to each other."""
        x_BKC = x_BKC + self.attn(self.norm1(x_BKC))
        mlp_BKC: Tensor = self.mlp(self.norm2(x_BKC))
        return x_BKC + mlp_BKC

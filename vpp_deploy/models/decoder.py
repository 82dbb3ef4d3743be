"""Transformer decoder: queries look at the memory inside their own masks (MODEL.md 3).

The modules' names are those of the published weights.

Shapes: B batch, Q queries, S keys, M heads, d width of a head, D = M*d head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.pixel_decoder import FeedForward


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with the packed input projection of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, query_BQD: Tensor, key_BSD: Tensor, value_BSD: Tensor, blocked: Tensor
    ) -> Tensor:
        """Attention of the queries, (B, Q, D).

        Args:
            query_BQD: queries, position included.
            key_BSD: keys, position included.
            value_BSD: values.
            blocked: bool, broadcasts to (B, Q, S), True where a query must not look; no row may
                be blocked everywhere.
        """
        query_BMQd, key_BMSd, value_BMSd = (
            self._project(i, x) for i, x in enumerate((query_BQD, key_BSD, value_BSD))
        )
        # In full, because the export of `scaled_dot_product_attention` guards against rows that
        # are masked everywhere with IsNaN nodes (torch 2.13, opset 20).
        scores_BMQS = (query_BMQd * query_BMQd.shape[3] ** -0.5) @ key_BMSd.transpose(2, 3)
        # Added, not filled in: over all heads, ONNX Runtime's CPU kernel for Where takes ten times
        # as long as the one for Add.
        barrier = torch.zeros_like(blocked, dtype=scores_BMQS.dtype)
        barrier = barrier.masked_fill(blocked, float("-inf"))
        weights_BMQS = (scores_BMQS + barrier[:, None]).softmax(3)
        mixed_BMQd = weights_BMQS @ value_BMSd
        output_BQD: Tensor = self.out_proj(mixed_BMQd.transpose(1, 2).flatten(2))
        return output_BQD

    def _project(self, part: int, x_BSD: Tensor) -> Tensor:
        """(B, M, S, d) by the part of the packed projection: 0 query, 1 key, 2 value."""
        batch, length, width = x_BSD.shape
        rows = slice(part * width, (part + 1) * width)
        projected_BSD = F.linear(x_BSD, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return projected_BSD.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)


class ResidualAttention(nn.Module):
    """Attention and the residual around it; positions enter neither residual nor value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(width, heads)

    def forward(
        self,
        query_BQD: Tensor,
        query_position_BQD: Tensor,
        key_BSD: Tensor,
        value_BSD: Tensor,
        blocked: Tensor,
    ) -> Tensor:
        """The queries plus what they attended to; arguments as in `MultiHeadAttention`."""
        attended: Tensor = self.attn(query_BQD + query_position_BQD, key_BSD, value_BSD, blocked)
        return query_BQD + attended


class DecoderLayer(nn.Module):
    """Masked cross attention, self attention, FFN; each with its residual, then a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.head_width
        self.attentions = nn.ModuleList(
            ResidualAttention(width, config.decoder_heads) for _ in range(2)
        )
        self.ffns = nn.ModuleList([FeedForward(width, config.decoder_ffn_width)])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        query_BQD: Tensor,
        query_position_BQD: Tensor,
        key_BSD: Tensor,
        value_BSD: Tensor,
        blocked_cells_BQS: Tensor,
        blocked_queries_B1Q: Tensor,
    ) -> Tensor:
        """Queries after this layer, (B, Q, D).

        Args:
            query_BQD: queries before it.
            query_position_BQD: their position embedding.
            key_BSD: memory of one level with level embedding and position.
            value_BSD: memory of one level with level embedding.
            blocked_cells_BQS: bool, True where a query must not look; a row that is blocked
                everywhere looks everywhere.
            blocked_queries_B1Q: bool, True for queries that no query may look at.
        """
        blocked_BQS = blocked_cells_BQS & ~blocked_cells_BQS.all(dim=2, keepdim=True)
        cross, self_attention = self.attentions
        query_BQD = self.norms[0](
            cross(query_BQD, query_position_BQD, key_BSD, value_BSD, blocked_BQS)
        )
        query_BQD = self.norms[1](
            self_attention(
                query_BQD,
                query_position_BQD,
                query_BQD + query_position_BQD,
                query_BQD,
                blocked_queries_B1Q,
            )
        )
        output_BQD: Tensor = self.norms[2](self.ffns[0](query_BQD))
        return output_BQD


class TransformerDecoder(nn.Module):
    """The layers, and the norm that predictions read queries through; the head runs them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.post_norm = nn.LayerNorm(config.head_width)

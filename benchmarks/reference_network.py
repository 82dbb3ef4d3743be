"""What the public code computes differently inside the network, to the same result (MODEL.md 7).

The weights are those of the project's own model, shared and not copied. Replaced are the parts in
which the public code's libraries do more work than the result needs: the attention of the dense
models' blocks, deformable attention's sampling, and the whole transformer decoder.

Shapes: B = 1 stream, Q queries, T track queries among them, S cells of a level, M heads, D width,
H W the mask features' size (a quarter of the input's).
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.decoder import DecoderLayer, MultiHeadAttention, ResidualAttention
from vpp_deploy.models.deformable import LevelSizes
from vpp_deploy.models.head import VppHead
from vpp_deploy.models.positions import sine_encoding
from vpp_deploy.models.vit import Attention


class Stopwatch:
    """Wall time of one frame's parts.

    Attributes:
        stage_ms: part to milliseconds, in the order they ran.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins a new frame."""
        self.stage_ms: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends the part called `name`; the next begins."""
        now = time.perf_counter()
        self.stage_ms[name] = (now - self._start) * 1e3
        self._start = now


def sample_stacked(
    value_BSMD: Tensor, level_sizes: LevelSizes, cells_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Deformable sampling as the public code's libraries do it on a CPU.

    Every sample of every level and point is held at once, and the weighted sum comes last.
    Arguments and result are those of `vpp_deploy.models.deformable.Sampler`.
    """
    batch, _, heads, width = value_BSMD.shape
    queries = cells_BQMLP2.shape[1]
    parts = torch.split(value_BSMD, [height * width_ for height, width_ in level_sizes], dim=1)
    extents_L2 = torch.tensor([(w, h) for h, w in level_sizes])
    grid_BQMLP2 = 2 * ((cells_BQMLP2 + 0.5) / extents_L2[:, None]) - 1
    sampled = [
        F.grid_sample(
            part_BSMD.flatten(2).transpose(1, 2).reshape(batch * heads, width, *size),
            grid_BQMLP2[:, :, :, level].transpose(1, 2).flatten(0, 1),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for level, (part_BSMD, size) in enumerate(zip(parts, level_sizes, strict=True))
    ]
    weights_N1QK = weights_BQMLP.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    summed_NDQ = (torch.stack(sampled, dim=-2).flatten(-2) * weights_N1QK).sum(-1)
    return summed_NDQ.view(batch, heads * width, queries).transpose(1, 2).contiguous()


class ExplicitAttention(nn.Module):
    """Self attention with its N x N matrix in memory, as the dense models' blocks have it."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Attention among all tokens, (B, N, C)."""
        batch, tokens, width = x_BNC.shape
        qkv = self.qkv(x_BNC).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights_BMNN = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1)
        mixed_BNC = (weights_BMNN @ v).transpose(1, 2).reshape(batch, tokens, width)
        projected_BNC: Tensor = self.proj(mixed_BNC)
        return projected_BNC


class Prediction(NamedTuple):
    """What the head predicts after its last layer.

    Attributes:
        class_logits_QK: the last class is the background.
        mask_logits_QHW: at a quarter of the input's size.
        queries_QD: before `post_norm`; what the tracker carries to the next frame.
    """

    class_logits_QK: Tensor
    mask_logits_QHW: Tensor
    queries_QD: Tensor


class ReferenceHead(nn.Module):
    """The head as the public code runs it: ten full predictions of classes and masks.

    It takes the place of a model's own head and shares its weights.
    """

    def __init__(self, head: VppHead, clock: Stopwatch) -> None:
        """`clock` is lapped when the backbone ends, and after each of the two decoders."""
        super().__init__()
        self.own = head
        self.clock = clock

    def forward(
        self,
        features: Sequence[Tensor],
        track_queries_BTD: Tensor,
        track_valid_BT: Tensor,
        attention_masks: Sequence[Tensor] | None = None,
    ) -> Prediction:
        """Predicts for one frame; the signature is that of `VppHead.forward`.

        Args:
            features: f1 to f4 of the backbone.
            track_queries_BTD: B = 1; T grows with the tracks.
            track_valid_BT: all True: there are no slots.
            attention_masks: None.
        """
        assert attention_masks is None
        assert track_queries_BTD.shape[0] == 1
        assert bool(track_valid_BT.all())
        own = self.own
        self.clock.lap("backbone")
        mask_features_BDHW, memory = own.pixel_decoder(*features)
        self.clock.lap("pixel decoder")

        sizes = [(level.shape[2], level.shape[3]) for level in memory]
        values, positions = [], []
        for i, (level, size) in enumerate(zip(memory, sizes, strict=True)):
            values.append(level.flatten(2).permute(2, 0, 1) + own.level_embed.weight[i])
            positions.append(sine_encoding(size, level.shape[1]).to(level).transpose(0, 1))
        tracks_TBD = track_queries_BTD.transpose(0, 1)
        query_QBD = torch.cat((own.query_feat.weight[:, None], tracks_TBD))
        position_QBD = torch.cat((own.query_embed.weight[:, None], torch.zeros_like(tracks_TBD)))

        classes, masks, blocked = self._predict(query_QBD, mask_features_BDHW, sizes[0])
        for i, layer in enumerate(own.transformer_decoder.layers):
            assert isinstance(layer, DecoderLayer)
            level_index = i % len(sizes)
            blocked[torch.where(blocked.sum(-1) == blocked.shape[-1])] = False
            value_SBD, key_position = values[level_index], positions[level_index]
            query_QBD = _decoder_layer(
                layer, query_QBD, position_QBD, value_SBD, key_position, blocked
            )
            next_size = sizes[(i + 1) % len(sizes)]
            classes, masks, blocked = self._predict(query_QBD, mask_features_BDHW, next_size)
        self.clock.lap("transformer decoder")
        return Prediction(classes[0], masks[0], query_QBD[:, 0])

    def _predict(
        self, query_QBD: Tensor, mask_features_BDHW: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, mask logits, and the next layer's mask once for each head (M, Q, S)."""
        own = self.own
        normed_BQD = own.transformer_decoder.post_norm(query_QBD).transpose(0, 1)
        classes_BQK = own.cls_embed(normed_BQD)
        masks_BQHW = torch.einsum("bqd,bdhw->bqhw", own.mask_embed(normed_BQD), mask_features_BDHW)
        resized = F.interpolate(masks_BQHW, size=size, mode="bilinear", align_corners=False)
        heads = _attention(own.transformer_decoder.layers[0], 0).heads
        resized_MQS = resized.flatten(2).unsqueeze(1).repeat(1, heads, 1, 1).flatten(0, 1)
        return classes_BQK, masks_BQHW, resized_MQS.sigmoid() < 0.5


def _decoder_layer(
    layer: DecoderLayer,
    query_QBD: Tensor,
    position_QBD: Tensor,
    value_SBD: Tensor,
    key_position_SBD: Tensor,
    blocked_MQS: Tensor,
) -> Tensor:
    """Masked cross attention, self attention and FFN, through PyTorch's own multi-head attention.

    It returns its weights, as it does by default, and so takes none of the fused kernels.
    """
    key_SBD = value_SBD + key_position_SBD
    cross = _multi_head(layer, 0, query_QBD + position_QBD, key_SBD, value_SBD, blocked_MQS)
    query_QBD = layer.norms[0](query_QBD + cross)
    placed_QBD = query_QBD + position_QBD
    mixed = _multi_head(layer, 1, placed_QBD, query_QBD + position_QBD, query_QBD, None)
    query_QBD = layer.norms[1](query_QBD + mixed)
    output_QBD: Tensor = layer.norms[2](layer.ffns[0](query_QBD))
    return output_QBD


def _attention(layer: nn.Module, index: int) -> MultiHeadAttention:
    assert isinstance(layer, DecoderLayer)
    residual = layer.attentions[index]
    assert isinstance(residual, ResidualAttention)
    return residual.attn


def _multi_head(
    layer: DecoderLayer,
    index: int,
    query_QBD: Tensor,
    key_SBD: Tensor,
    value_SBD: Tensor,
    blocked_MQS: Tensor | None,
) -> Tensor:
    attention = _attention(layer, index)
    output_QBD, _ = F.multi_head_attention_forward(
        query_QBD,
        key_SBD,
        value_SBD,
        query_QBD.shape[2],
        attention.heads,
        attention.in_proj_weight,
        attention.in_proj_bias,
        None,
        None,
        False,
        0.0,
        attention.out_proj.weight,
        attention.out_proj.bias,
        training=False,
        need_weights=True,
        attn_mask=blocked_MQS,
    )
    return output_QBD

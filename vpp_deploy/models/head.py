"""Mask2Former head with track queries: from feature maps to classes and masks (MODEL.md 3).

Shapes: B batch, T track slots, Q = static queries + T, D head width, K classes and background,
S cells of a level, H W here the mask features' size (a quarter of the input's).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.decoder import TransformerDecoder
from vpp_deploy.models.deformable import Sampler, sample_grid
from vpp_deploy.models.pixel_decoder import PixelDecoder
from vpp_deploy.models.positions import sine_encoding


class HeadOutput(NamedTuple):
    """Predictions of the last layer.

    Attributes:
        class_logits_BQK: the last class is the background.
        mask_embeds_BQD: mask logits are `mask_embeds_BQD` times `mask_features_BDHW`.
        mask_features_BDHW: at a quarter of the input's size.
        queries_BQD: before `post_norm`; what the tracker carries to the next frame.
        attention_masks: for each decoder layer (B, Q, S) bool, True = blocked, before the rule
            for rows that are blocked everywhere.
    """

    class_logits_BQK: Tensor
    mask_embeds_BQD: Tensor
    mask_features_BDHW: Tensor
    queries_BQD: Tensor
    attention_masks: tuple[Tensor, ...]


class VppHead(nn.Module):
    """Pixel decoder, transformer decoder and predictions."""

    def __init__(self, config: ModelConfig, sampler: Sampler = sample_grid) -> None:
        super().__init__()
        width = config.head_width
        self.pixel_decoder = PixelDecoder(config, sampler)
        self.transformer_decoder = TransformerDecoder(config)
        self.query_feat = nn.Embedding(config.num_queries, width)
        self.query_embed = nn.Embedding(config.num_queries, width)
        self.level_embed = nn.Embedding(3, width)
        self.cls_embed = nn.Linear(width, len(config.classes) + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(
        self,
        features: Sequence[Tensor],
        track_queries_BTD: Tensor,
        track_valid_BT: Tensor,
        attention_masks: Sequence[Tensor] | None = None,
    ) -> HeadOutput:
        """Predict for one frame of each stream.

        Args:
            features: f1 to f4 of the backbone, (B, C, height, width) at strides 4 to 32.
            track_queries_BTD: queries carried from the previous frame; T may be 0.
            track_valid_BT: bool, False for a slot that holds no track. Such a slot changes
                nothing for the other queries, whatever it contains.
            attention_masks: forces the masks that the layers receive, for comparing two
                implementations under equal decisions; as in `HeadOutput`.
        """
        mask_features_BDHW, memory = self.pixel_decoder(*features)

        def blocked(layer: int, query_BQD: Tensor, size: tuple[int, int]) -> Tensor:
            if attention_masks is not None:
                return attention_masks[layer]
            return self._attention_mask(query_BQD, mask_features_BDHW, size)

        query_BQD, masks = self.decode(memory, track_queries_BTD, track_valid_BT, blocked)
        normed_BQD = self.transformer_decoder.post_norm(query_BQD)
        return HeadOutput(
            self.cls_embed(normed_BQD),
            self.mask_embed(normed_BQD),
            mask_features_BDHW,
            query_BQD,
            masks,
        )

    def decode(
        self,
        memory: Sequence[Tensor],
        track_queries_BTD: Tensor,
        track_valid_BT: Tensor,
        blocked: Callable[[int, Tensor, tuple[int, int]], Tensor],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the transformer decoder.

        Args:
            memory: maps (B, D, h, w) at 1/32, 1/16, 1/8.
            track_queries_BTD: as in `forward`.
            track_valid_BT: as in `forward`.
            blocked: (layer, queries before it (B, Q, D), (h, w) of its level) to the mask that the
                layer receives, (B, Q, h*w) bool.

        Returns:
            The queries after the last layer (B, Q, D), and each layer's mask.
        """
        keys, values, sizes = self._memory(memory)
        query_BQD, position_BQD = self._queries(track_queries_BTD, track_valid_BT)
        never_BS = track_valid_BT.new_zeros(track_valid_BT.shape[0], self.query_feat.num_embeddings)
        blocked_queries_B1Q = torch.cat((never_BS, ~track_valid_BT), dim=1)[:, None]
        masks: list[Tensor] = []
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(memory)
            masks.append(blocked(i, query_BQD, sizes[level]))
            query_BQD = layer(
                query_BQD, position_BQD, keys[level], values[level], masks[i], blocked_queries_B1Q
            )
        return query_BQD, tuple(masks)

    def _queries(self, track_queries_BTD: Tensor, track_valid_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Static and track queries, and their position embedding, which is zero for tracks."""
        batch = track_queries_BTD.shape[0]
        # Whatever an empty slot holds, NaN included, must not reach a product with zero.
        tracks_BTD = torch.where(track_valid_BT[:, :, None], track_queries_BTD, 0.0)
        tracks_BTD = tracks_BTD.to(self.query_feat.weight.dtype)
        static_BQD = self.query_feat.weight[None].expand(batch, -1, -1)
        position_BQD = self.query_embed.weight[None].expand(batch, -1, -1)
        return (
            torch.cat((static_BQD, tracks_BTD), dim=1),
            torch.cat((position_BQD, torch.zeros_like(tracks_BTD)), dim=1),
        )

    def _memory(
        self, memory: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Each level's keys and values (B, S, D), and its size."""
        sizes = [(level.shape[2], level.shape[3]) for level in memory]
        values = [
            level.flatten(2).transpose(1, 2) + self.level_embed.weight[i]
            for i, level in enumerate(memory)
        ]
        keys = [
            value + sine_encoding(size, value.shape[2]).to(value)
            for value, size in zip(values, sizes, strict=True)
        ]
        return keys, values, sizes

    def _attention_mask(
        self, query_BQD: Tensor, mask_features_BDHW: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """(B, Q, S) bool: where the queries' own masks, at a level's size, are background."""
        embeds_BQD = self.mask_embed(self.transformer_decoder.post_norm(query_BQD))
        logits_BQHW = (embeds_BQD @ mask_features_BDHW.flatten(2)).reshape(
            *embeds_BQD.shape[:2], *mask_features_BDHW.shape[2:]
        )
        resized = F.interpolate(logits_BQHW, size=size, mode="bilinear", align_corners=False)
        return is_background(resized.flatten(2))


def is_background(mask_logits: Tensor) -> Tensor:
    """Where a query must not look (MODEL.md 3).

    Not "logit < 0": the sigmoid of a tiny negative logit rounds to 0.5, which is not blocked.
    """
    return mask_logits.sigmoid() < 0.5

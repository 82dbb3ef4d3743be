"""The head as it is deployed: no mask is predicted larger than it is needed (MODEL.md 3).

Shapes: B streams, T track slots, Q = static queries + T, D head width, S cells of a level, H W the
padded input.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.head import is_background
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.folding import MaskEmbedding


class Head(nn.Module):
    """Pixel decoder and transformer decoder, with a fixed number of track slots.

    Resizing commutes with the product that makes mask logits, so the map is resized, once a
    level, and the logits that an attention mask needs exist at that level's size alone. Masks at
    1/4 and classes are predicted after the last layer only.
    """

    def __init__(self, model: VppModel) -> None:
        super().__init__()
        self.panoptic_head = model.panoptic_head
        self.mask_embedding = MaskEmbedding(model.panoptic_head)
        self.show_masks = False

    @property
    def num_layers(self) -> int:
        """Of the transformer decoder."""
        return len(self.panoptic_head.transformer_decoder.layers)

    def with_masks(self) -> "Head":
        """This head with its attention masks as outputs, to compare values under equal masks."""
        inspected = copy.copy(self)
        inspected.show_masks = True
        return inspected

    def forward(
        self,
        projected4: Tensor,
        projected8: Tensor,
        projected16: Tensor,
        projected32: Tensor,
        track_queries_BTD: Tensor,
        track_valid_BT: Tensor,
    ) -> tuple[Tensor, ...]:
        """Returns the predictions of the last layer (and each layer's attention mask).

        class logits (B, Q, classes + 1), mask logits (B, Q, H/4, W/4), output queries (B, Q, D).
        """
        head = self.panoptic_head
        decoder = head.pixel_decoder
        at_4, at_8, at_16, at_32 = (block.norm for block in decoder.projections)
        memory = decoder.encode((at_32(projected32), at_16(projected16), at_8(projected8)))
        fine_BDHW = decoder.fuse(at_4(projected4), memory[2])
        at_level_BDS = [
            F.interpolate(
                fine_BDHW, size=level.shape[2:], mode="bilinear", align_corners=False
            ).flatten(2)
            for level in memory
        ]

        def blocked(layer: int, query_BQD: Tensor, size: tuple[int, int]) -> Tensor:
            return is_background(self._mask_logits(query_BQD, at_level_BDS[layer % len(memory)]))

        query_BQD, masks = head.decode(memory, track_queries_BTD, track_valid_BT, blocked)
        class_logits = head.cls_embed(self._normed(query_BQD))
        mask_logits_BQS = self._mask_logits(query_BQD, fine_BDHW.flatten(2))
        mask_logits = mask_logits_BQS.reshape(*mask_logits_BQS.shape[:2], *fine_BDHW.shape[2:])
        predictions = (class_logits.float(), mask_logits.float(), query_BQD.float())
        return (*predictions, *masks) if self.show_masks else predictions

    def _mask_logits(self, query_BQD: Tensor, fine_BDS: Tensor) -> Tensor:
        """(B, Q, S) at the cells given."""
        embeds_BQD, bias_BQ1 = self.mask_embedding(self._normed(query_BQD))
        logits_BQS: Tensor = embeds_BQD @ fine_BDS.to(embeds_BQD.dtype) + bias_BQ1
        return logits_BQS

    def _normed(self, query_BQD: Tensor) -> Tensor:
        """Queries as predictions read them."""
        norm = self.panoptic_head.transformer_decoder.post_norm
        normed_BQD: Tensor = norm(query_BQD.to(norm.weight.dtype))
        return normed_BQD

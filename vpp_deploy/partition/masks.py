"""Masks at the frame's size, on the device, for the queries that may be detected (MODEL.md 4).

What a frame's post-processing reads of the masks is one bit a pixel and a sum a query: that is all
that has to leave the device. Both bilinear resizes, and the crop between them, are one linear map
for each axis, which comes in as a matrix: so one graph serves frames of any size.

Shapes: B streams, Q queries, T track slots, M masks, h w size of the logits, Y X of the frame,
G = X/8 bytes of a row, rounded up.
"""

import torch
from torch import Tensor, nn

MAX_MASKS = 16
"""Made by one call: more than most frames hold, and few enough to be made in every frame."""


class Masks(nn.Module):
    """The masks of the M queries with the best class scores, from `mask_offset` on."""

    def forward(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        track_valid_BT: Tensor,
        row_weights_BYh: Tensor,
        column_weights_BwG8: Tensor,
        mask_offset_1: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ranks the queries by their best class and makes M of their masks.

        Args:
            class_logits: (B, Q, classes + 1), background last.
            mask_logits: (B, Q, h, w).
            track_valid_BT: which slots hold a track; the others come last in the ranking.
            row_weights_BYh: from the logits' rows to the frame's.
            column_weights_BwG8: from the logits' columns to the frame's; pixels beyond its width
                have no weights.
            mask_offset_1: int64, how many of the best are passed over.

        Returns:
            The queries (B, M) int64; the pixels where the logit is positive (B, M, Y, G) uint8, as
            np.packbits orders them; the sum of the sigmoid over those (B, M); and the mean absolute
            logit (B, M), which is not finite if any of them is not.
        """
        batch, num_queries, height, width = mask_logits.shape
        num_masks = min(MAX_MASKS, num_queries)
        ranked_BQ = self._rank(class_logits, track_valid_BT)
        places_M = mask_offset_1 + torch.arange(num_masks, device=mask_logits.device)
        queries_BM = ranked_BQ.index_select(1, places_M.clamp(max=num_queries - 1))

        start_B1 = torch.arange(batch, device=mask_logits.device)[:, None] * num_queries
        rows_N = (queries_BM + start_B1).flatten()
        chosen_BSw = mask_logits.flatten(0, 1).index_select(0, rows_N).reshape(batch, -1, width)
        wide_BSX = chosen_BSw @ column_weights_BwG8.flatten(2)
        wide_BMhX = wide_BSX.reshape(batch, num_masks, height, -1)
        pixels_BMYX = row_weights_BYh[:, None] @ wide_BMhX

        inside_BMYX = pixels_BMYX > 0
        places_8 = torch.arange(7, -1, -1, device=mask_logits.device)
        ones_8 = 2.0**places_8
        bits_BMYG8 = inside_BMYX.reshape(*inside_BMYX.shape[:3], -1, 8).to(torch.float32) * ones_8
        sums_BM = torch.where(inside_BMYX, pixels_BMYX.sigmoid(), 0.0).sum(3).sum(2)
        checks_BM = chosen_BSw.reshape(batch, num_masks, -1).abs().mean(dim=2)
        return queries_BM, bits_BMYG8.sum(dim=4).to(torch.uint8), sums_BM, checks_BM

    def _rank(self, class_logits: Tensor, track_valid_BT: Tensor) -> Tensor:
        """(B, Q) queries, best first."""
        batch, num_queries = class_logits.shape[:2]
        scores_BQ = class_logits.softmax(2)[..., :-1].amax(dim=2)
        static_BQ = track_valid_BT.new_ones(batch, num_queries - track_valid_BT.shape[1])
        valid_BQ = torch.cat((static_BQ, track_valid_BT), dim=1)
        return torch.where(valid_BQ, scores_BQ, -1.0).topk(num_queries, dim=1).indices

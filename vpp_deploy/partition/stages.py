"""The four stages as modules: tensors in, tensors out, all state in the signature.

Each holds the constants of one input size, so that nothing of them is computed per frame. The
names and the order of their tensors are given once, in `plan.py`.

Shapes: B streams, H W padded input, N tokens, M pyramid tokens, K tokens kept, T track slots,
C backbone width, D head width.
"""

import torch
from torch import Tensor, nn

from vpp_deploy.models.backbone import GridConstants, Selection, StemOutput, TrunkOutput
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vpp import VppModel, normalise


class _BackboneStage(nn.Module):
    """Shares what the three backbone stages need: the weights, and the input size's constants."""

    def __init__(self, model: VppModel, grid: tuple[int, int], constants: GridConstants) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.grid = grid
        for name, value in constants._asdict().items():
            self.register_buffer(name, value, persistent=False)

    @property
    def constants(self) -> GridConstants:
        return GridConstants(*(self.get_buffer(name) for name in GridConstants._fields))


class Stem(_BackboneStage):
    """uint8 frames to everything that is dense: through block 0 (MODEL.md 1.3 to 2.1)."""

    def forward(self, frames_BHW3: Tensor, frame_sizes_B2: Tensor) -> StemOutput:
        """Returns tokens (B, N, C), pyramid (B, M, C), stride4 (B, C, H/4, W/4)."""
        return self.backbone.stem(normalise(frames_BHW3, frame_sizes_B2), self.constants)


class Selector(_BackboneStage):
    """Map-SM over the compact memory of the previous frame (MODEL.md 2.3)."""

    def forward(
        self,
        tokens_BNC: Tensor,
        ref_tokens_BKC: Tensor,
        ref_scores_BK: Tensor,
        ref_positions_BK: Tensor,
        rank_noise_BN: Tensor,
    ) -> Tensor:
        """Returns the positions that run in blocks 1 and 2, ascending."""
        memory = TokenMemory(ref_tokens_BKC, ref_scores_BK, ref_positions_BK)
        return self.backbone.select(tokens_BNC, memory, self.constants, self.grid, rank_noise_BN)


class PublishedSelector(_BackboneStage):
    """Map-SM under the threshold rule, where the previous frame may have kept nothing."""

    def forward(
        self,
        tokens_BNC: Tensor,
        ref_tokens_BKC: Tensor,
        ref_scores_BK: Tensor,
        ref_positions_BK: Tensor,
        rank_noise_BN: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the positions, and a flag (1,): every block of this frame runs every token."""
        memory = TokenMemory(ref_tokens_BKC, ref_scores_BK, ref_positions_BK)
        kept_BK = self.backbone.select(tokens_BNC, memory, self.constants, self.grid, rank_noise_BN)
        return kept_BK, torch.tensor([memory.is_empty])


class Trunk(_BackboneStage):
    """Blocks 1 to 11 on the kept tokens, with fixed budgets (MODEL.md 2.2, 2.4)."""

    def __init__(
        self,
        model: VppModel,
        grid: tuple[int, int],
        constants: GridConstants,
        counts: tuple[int, int, int],
    ) -> None:
        super().__init__(model, grid, constants)
        self.selection = Selection(counts=counts)

    def forward(
        self, tokens_BNC: Tensor, pyramid_BMC: Tensor, stride4_BCHW: Tensor, kept_1_2_BK: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns f1 to f4, the memory for the next frame, kept_6_8, kept_9_11."""
        stem = StemOutput(tokens_BNC, pyramid_BMC, stride4_BCHW)
        out = self.backbone.trunk(stem, kept_1_2_BK, self.selection, self.constants, self.grid)
        return _flat(out)


class PublishedTrunk(_BackboneStage):
    """The trunk under the threshold rule: counts vary, one stream at a time."""

    def forward(
        self,
        tokens_BNC: Tensor,
        pyramid_BMC: Tensor,
        stride4_BCHW: Tensor,
        kept_1_2_BK: Tensor,
        keep_all_1: Tensor,
    ) -> tuple[Tensor, ...]:
        """As `Trunk.forward`; `keep_all_1` is the selector's flag."""
        stem = StemOutput(tokens_BNC, pyramid_BMC, stride4_BCHW)
        selection = Selection(keep_all=bool(keep_all_1))
        out = self.backbone.trunk(stem, kept_1_2_BK, selection, self.constants, self.grid)
        return _flat(out)


def _flat(out: TrunkOutput) -> tuple[Tensor, ...]:
    assert out.memory is not None
    # The positions kept in blocks 3-5 are in the memory already.
    return *out.features, *out.memory, *out.kept[1:]


class DenseTrunk(_BackboneStage):
    """Blocks 1 to 11 of a dense model: every token, no state."""

    def forward(
        self, tokens_BNC: Tensor, pyramid_BMC: Tensor, stride4_BCHW: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns f1 to f4."""
        stem = StemOutput(tokens_BNC, pyramid_BMC, stride4_BCHW)
        return self.backbone.trunk(stem, None, Selection(), self.constants, self.grid).features


class Head(nn.Module):
    """Pixel decoder and transformer decoder (MODEL.md 3), with a fixed number of track slots."""

    def __init__(self, model: VppModel, show_masks: bool = False) -> None:
        """`show_masks` adds the attention masks, for comparing values under equal masks."""
        super().__init__()
        self.panoptic_head = model.panoptic_head
        self.show_masks = show_masks

    def forward(
        self,
        f1: Tensor,
        f2: Tensor,
        f3: Tensor,
        f4: Tensor,
        track_queries_BTD: Tensor,
        track_valid_BT: Tensor,
    ) -> tuple[Tensor, ...]:
        """Returns class logits, mask embeddings, mask features, output queries (and the masks)."""
        out = self.panoptic_head((f1, f2, f3, f4), track_queries_BTD, track_valid_BT)
        predictions = (
            out.class_logits_BQK,
            out.mask_embeds_BQD,
            out.mask_features_BDHW,
            out.queries_BQD,
        )
        return (*predictions, *out.attention_masks) if self.show_masks else predictions

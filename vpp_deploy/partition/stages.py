"""The backbone's stages as modules: tensors in, tensors out, all state in the signature.

Each holds the constants of one input size, so that nothing of them is computed per frame. The
names and the order of their tensors are given once, in `plan.py`.

Shapes: B streams, H W padded input, N tokens, M pyramid tokens, K tokens kept, T track slots,
C backbone width, D head width.
"""

import torch
from torch import Tensor, nn

from vpp_deploy.models.backbone import GridConstants, Selection, StemOutput
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vpp import VppModel, normalise
from vpp_deploy.partition.folding import FeatureProjection, fold_spatial_prior


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

    def __init__(self, model: VppModel, grid: tuple[int, int], constants: GridConstants) -> None:
        super().__init__(model, grid, constants)
        self.spatial_prior = fold_spatial_prior(model.backbone.spm)

    def forward(self, frames_BHW3: Tensor, frame_sizes_B2: Tensor) -> StemOutput:
        """Returns tokens (B, N, C), pyramid (B, M, C), stride4 (B, stem_width, H/4, W/4)."""
        image = normalise(frames_BHW3, frame_sizes_B2).to(
            self.constants.position_embedding_1NC.dtype
        )
        stride4_BSHW, pyramid_BMC = self.spatial_prior(image, self.backbone.level_embed)
        tokens_BNC = self.backbone.first_block(image, pyramid_BMC, self.constants)
        return StemOutput(tokens_BNC, pyramid_BMC, stride4_BSHW)


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


class _TrunkStage(_BackboneStage):
    """Blocks 1 to 11, and the projections that the head begins with."""

    def __init__(self, model: VppModel, grid: tuple[int, int], constants: GridConstants) -> None:
        super().__init__(model, grid, constants)
        self.projection = FeatureProjection(model.backbone, model.panoptic_head, grid)

    def run(
        self,
        tokens_BNC: Tensor,
        pyramid_BMC: Tensor,
        stride4_BSHW: Tensor,
        keep_BK: Tensor | None,
        selection: Selection,
    ) -> tuple[Tensor, ...]:
        """The four projected maps; of a pruned model also memory, kept_6_8 and kept_9_11."""
        out = self.backbone.trunk(
            tokens_BNC, pyramid_BMC, keep_BK, selection, self.constants, self.grid
        )
        projected = self.projection(out.tokens_BNC, out.pyramid_BMC, stride4_BSHW)
        # The positions kept in blocks 3-5 are in the memory already.
        return *projected, *(out.memory or ()), *out.kept[1:]


class Trunk(_TrunkStage):
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
        self, tokens_BNC: Tensor, pyramid_BMC: Tensor, stride4_BSHW: Tensor, kept_1_2_BK: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the projected maps, the memory for the next frame, kept_6_8, kept_9_11."""
        return self.run(tokens_BNC, pyramid_BMC, stride4_BSHW, kept_1_2_BK, self.selection)


class PublishedTrunk(_TrunkStage):
    """The trunk under the threshold rule: counts vary, one stream at a time."""

    def forward(
        self,
        tokens_BNC: Tensor,
        pyramid_BMC: Tensor,
        stride4_BSHW: Tensor,
        kept_1_2_BK: Tensor,
        keep_all_1: Tensor,
    ) -> tuple[Tensor, ...]:
        """As `Trunk.forward`; `keep_all_1` is the selector's flag."""
        selection = Selection(keep_all=bool(keep_all_1))
        return self.run(tokens_BNC, pyramid_BMC, stride4_BSHW, kept_1_2_BK, selection)


class DenseTrunk(_TrunkStage):
    """Blocks 1 to 11 of a dense model: every token, no state."""

    def forward(
        self, tokens_BNC: Tensor, pyramid_BMC: Tensor, stride4_BSHW: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the projected maps."""
        return self.run(tokens_BNC, pyramid_BMC, stride4_BSHW, None, Selection())

"""Token selection that can be learned: hard choices forward, soft ones backward.

The trunk of `VppBackbone` as it is trained. Every token goes through every block, but only kept
ones are attended to, and a gate of 1 or 0 decides what is written back. So kept tokens get the
values that the package's own trunk computes, while the gradient of a gate, taken straight through
to the sigmoid of its score, tells what running a token is worth, or would have been.

Shapes: B batch, N tokens, M pyramid tokens, C width, K kept tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.adapter import Interaction, pyramid_sizes
from vpp_deploy.models.backbone import GridConstants, VppBackbone
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.tokens import best, take
from vpp_deploy.models.vit import Attention, Block

NOISE = 0.5
"""Scale of the logistic noise, the difference of two Gumbel draws, on the scores."""


@dataclass(frozen=True)
class Shares:
    """Shares of the tokens that run in blocks 1-2, 3-5, 6-8 and 9-11."""

    blocks_1_2: float
    blocks_3_5: float
    blocks_6_8: float
    blocks_9_11: float

    def scaled(self, factor: float) -> "Shares":
        """All of them times `factor`, at most 1."""
        return Shares(*(min(1.0, factor * share) for share in self.as_tuple()))

    def as_tuple(self) -> tuple[float, float, float, float]:
        """From the first blocks to the last."""
        return self.blocks_1_2, self.blocks_3_5, self.blocks_6_8, self.blocks_9_11


class GatedOutput(NamedTuple):
    """What a frame's trunk gives.

    Attributes:
        tokens_BNC: after block 11.
        pyramid_BMC: after the last extractor.
        memory: for the next frame.
        scores: of each selector, (B, N), without noise; Map-SM's first, which is None in a first
            frame.
        kept: of each selector, (B, N) bool.
    """

    tokens_BNC: Tensor
    pyramid_BMC: Tensor
    memory: TokenMemory
    scores: tuple[Tensor | None, ...]
    kept: tuple[Tensor, ...]


def gated_trunk(
    backbone: VppBackbone,
    tokens_BNC: Tensor,
    pyramid_BMC: Tensor,
    memory: TokenMemory | None,
    shares: Shares,
    noise: float,
    constants: GridConstants,
    grid: tuple[int, int],
) -> GatedOutput:
    """Blocks 1 to 11 of one frame.

    Args:
        backbone: pruned.
        tokens_BNC: at the entry of block 1.
        pyramid_BMC: from the stem.
        memory: of the previous frame; None in a first frame, where all tokens run in blocks 1-2.
        shares: what each selector keeps.
        noise: scale of the noise on the scores.
        constants: of this input size.
        grid: (h, w).
    """
    batch, num_tokens = tokens_BNC.shape[:2]
    counts = [int(num_tokens * share) for share in shares.as_tuple()]
    per = len(backbone.blocks) // 4
    x, c = tokens_BNC, pyramid_BMC
    kept_BN = torch.ones(batch, num_tokens, dtype=torch.bool, device=x.device)
    gate_BN = torch.ones(batch, num_tokens, device=x.device)
    scores: list[Tensor | None] = [None]
    map_selector = _interaction(backbone, 0).matching_module
    assert map_selector is not None, "a dense model has no selectors to train"
    if memory is not None:
        score_BN = map_selector.map_scores(x, memory, constants.distance_prior_NN, grid)
        kept_BN, gate_BN = _choose(score_BN, kept_BN, counts[0], noise)
        scores = [score_BN]
    kept = [kept_BN]
    reference = x
    next_memory: TokenMemory | None = None
    sizes = pyramid_sizes(grid)
    for i in range(4):
        interaction = _interaction(backbone, i)
        if i > 0:
            x = interaction.injector(x, c, constants.patch_centres_N2, sizes)
            score_BN = backbone.selective_modules[i - 1](x)
            kept_BN, gate_BN = _choose(score_BN, kept_BN, min(counts[i], counts[i - 1]), noise)
            scores.append(score_BN)
            kept.append(kept_BN)
        x = _run(backbone.blocks[max(1, i * per) : (i + 1) * per], x, kept_BN, gate_BN)
        if i == 0 and backbone.config.reference_tokens == "after_block_2":
            reference = x
        if i == 1:
            positions_BK = kept_BN.nonzero()[:, 1].reshape(batch, -1)
            token_scores = map_selector.token_scores(take(x, positions_BK))
            next_memory = TokenMemory(take(reference, positions_BK), token_scores, positions_BK)
        for extractor in (interaction.extractor, *interaction.extra_extractors):
            c = extractor(c, x, constants.pyramid_centres_M2, grid, sizes)
    assert next_memory is not None
    return GatedOutput(x, c, next_memory, tuple(scores), tuple(kept))


def selector_loss(
    output: GatedOutput, foreground_BN: Tensor, shares: Shares
) -> tuple[Tensor, Tensor]:
    """What the scores themselves are taught, beside the gates' gradients.

    Args:
        output: of one frame.
        foreground_BN: bool, patches where any object shows.
        shares: of all tokens that should score 0 or more, dropped ones included. The published rule
            keeps those that every selector before kept as well, so it keeps fewer.

    Returns:
        Guidance towards objects (the rest gets what they leave of the share), and the squared
        distance from the share.
    """
    front_BN = foreground_BN.to(torch.float32)
    guidance, ratio = front_BN.new_zeros(()), front_BN.new_zeros(())
    part_B1 = front_BN.mean(1, keepdim=True)
    for score_BN, share in zip(output.scores, shares.as_tuple(), strict=True):
        if score_BN is None:
            continue
        rest_B1 = ((share - part_B1) / (1 - part_B1).clamp(min=1e-3)).clamp(0.05, 0.95)
        wanted_BN = torch.where(foreground_BN, 0.95, rest_B1)
        guidance = guidance + F.binary_cross_entropy_with_logits(score_BN, wanted_BN)
        soft_BN = score_BN.sigmoid()
        through_BN = (score_BN >= 0).to(soft_BN) + soft_BN - soft_BN.detach()
        ratio = ratio + (through_BN.mean() - share) ** 2
    return guidance, ratio


def _choose(score_BN: Tensor, kept_BN: Tensor, count: int, noise: float) -> tuple[Tensor, Tensor]:
    """The best `count` of the tokens still kept, and their gates."""
    ranked_BN = score_BN.detach()
    if noise:
        uniform_BN = torch.rand_like(ranked_BN).clamp(1e-6, 1 - 1e-6)
        ranked_BN = ranked_BN + noise * torch.logit(uniform_BN)
    positions_BK = best(ranked_BN.masked_fill(~kept_BN, float("-inf")), count)
    chosen_BN = torch.zeros_like(kept_BN).scatter(1, positions_BK, value=True)
    soft_BN = score_BN.sigmoid()
    return chosen_BN, chosen_BN.to(soft_BN) + soft_BN - soft_BN.detach()


def _run(blocks: nn.ModuleList, x_BNC: Tensor, kept_BN: Tensor, gate_BN: Tensor) -> Tensor:
    y_BNC = x_BNC
    for block in blocks:
        assert isinstance(block, Block)
        y_BNC = y_BNC + _attend(block.attn, block.norm1(y_BNC), kept_BN)
        y_BNC = y_BNC + block.mlp(block.norm2(y_BNC))
    return x_BNC + gate_BN[:, :, None] * (y_BNC - x_BNC)


def _attend(attention: Attention, x_BNC: Tensor, kept_BN: Tensor) -> Tensor:
    """Every token looks, at kept ones alone."""
    batch, tokens, width = x_BNC.shape
    qkv = attention.qkv(x_BNC).reshape(batch, tokens, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=kept_BN[:, None, None])
    projected: Tensor = attention.proj(out.transpose(1, 2).reshape(batch, tokens, width))
    return projected


def _interaction(backbone: VppBackbone, i: int) -> Interaction:
    interaction = backbone.interactions[i]
    assert isinstance(interaction, Interaction)
    return interaction

"""Which tokens run: the selective modules and Map-SM (MODEL.md 2.2 and 2.3).

Shapes: B batch, N = h*w tokens, K tokens kept of the previous frame, C width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpp_deploy.models.tokens import best
from vpp_deploy.models.vit import Mlp

_POOL_WINDOW = 9


class TokenMemory(NamedTuple):
    """What Map-SM needs of the previous frame: the tokens that ran in block 5, and no others.

    Its MLP acts on every looked-up token alone, so the score of a token is carried instead of
    the token (MODEL.md 2.3).

    Attributes:
        tokens_BKC: reference tokens, k in MODEL.md 2.3.
        scores_BK: first minus second logit of Map-SM's MLP on the token after block 5.
        positions_BK: int64, ascending.
    """

    tokens_BKC: Tensor
    scores_BK: Tensor
    positions_BK: Tensor

    @property
    def is_empty(self) -> bool:
        """No token of that frame ran in block 5: possible under the published rule only."""
        return self.positions_BK.shape[1] == 0


class SelectiveModule(nn.Module):
    """Scores tokens for one of the selections at blocks 3, 6 and 9."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden, 2)

    def forward(self, x_BKC: Tensor) -> Tensor:
        """First minus second logit, (B, K): a token is kept by the published rule from 0 up."""
        return _margin(self.mlp(self.norm(x_BKC.to(self.norm.weight.dtype))))


def _margin(logits_BK2: Tensor) -> Tensor:
    return logits_BK2[..., 0] - logits_BK2[..., 1]


def distance_prior(grid: tuple[int, int]) -> Tensor:
    """(N, N) addition to Map-SM's similarities, from the Manhattan distance of two patches."""
    y = torch.linspace(0, 1, grid[0])
    x = torch.linspace(0, 1, grid[1])
    points_N2 = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)
    distance_NN = (points_N2[:, None] - points_N2[None]).abs().sum(-1)
    return torch.log10(10 * (2 - distance_NN) / 2 + 1e-6)


class MapSelector(nn.Module):
    """Map-SM: every token inherits the score of its best match in the previous frame."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm_selector = nn.LayerNorm(width)
        self.selector = Mlp(width, hidden, 2)

    def token_scores(self, x_BKC: Tensor) -> Tensor:
        """(B, K) scores of tokens after block 5, to be looked up in the next frame."""
        x_BKC = x_BKC.to(self.norm_selector.weight.dtype)
        return _margin(self.selector(self.norm_selector(x_BKC)))

    def map_scores(
        self, x_BNC: Tensor, memory: TokenMemory, prior_NN: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Looked up and smoothed scores of this frame's tokens at the entry of block 1, (B, N)."""
        phi_BNK = x_BNC.to(prior_NN) @ memory.tokens_BKC.to(prior_NN).transpose(1, 2)
        # The prior is symmetric: rows are contiguous, columns are not.
        prior_BKN = prior_NN.index_select(0, memory.positions_BK.flatten())
        phi_BNK = phi_BNK + prior_BKN.reshape(*memory.positions_BK.shape, -1).transpose(1, 2)
        scores_BN = memory.scores_BK.gather(1, phi_BNK.argmax(dim=2))
        score_map = scores_BN.reshape(-1, 1, *grid)
        margin = _POOL_WINDOW // 2
        padded = F.pad(score_map, (margin, margin, margin, margin), mode="replicate")
        return F.avg_pool2d(padded, _POOL_WINDOW, stride=1).flatten(1)

    def forward(
        self,
        x_BNC: Tensor,
        memory: TokenMemory,
        prior_NN: Tensor,
        grid: tuple[int, int],
        count: int,
        noise_BN: Tensor,
    ) -> Tensor:
        """Positions (B, count) of the tokens that run in blocks 1 and 2.

        `noise_BN` is added to the scores before ranking: zeros, or a seeded exploration policy.
        """
        return best(self.map_scores(x_BNC, memory, prior_NN, grid) + noise_BN, count)

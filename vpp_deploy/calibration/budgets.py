"""Budgets for what the rule keeps: for a wanted coverage, or for a wanted saving."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.calibration.rule import KeptTokens
from vpp_deploy.errors import RecipeError
from vpp_deploy.recipes import Budgets, BudgetShares

_BLOCKS = (1, 2, 3, 3, 3)
"""Blocks that run all tokens, K1, K3, K6 and K9 of them (MODEL.md 2.2)."""


@dataclass(frozen=True)
class Proposal:
    """Budgets, and what they would have done to the frames that they come from.

    Attributes:
        budgets: tokens.
        shares: what a recipe says to get them.
        kept: share of the tokens that runs, averaged over the 12 blocks.
        coverage: share of the frames of which nothing is cut that the rule keeps, in blocks 3-5,
            6-8, 9-11, and in all of them.
    """

    budgets: Budgets
    shares: BudgetShares
    kept: float
    coverage: tuple[float, float, float, float]


def share_kept(budgets: Sequence[int | float], num_tokens: int) -> float:
    """Share of the tokens that runs, averaged over the 12 blocks, for K1, K3, K6, K9."""
    counts = (num_tokens, *budgets)
    return float(np.dot(_BLOCKS, counts)) / (sum(_BLOCKS) * num_tokens)


def telling(frames: Sequence[KeptTokens]) -> NDArray[np.int64]:
    """(n, 3) counts at blocks 3, 6 and 9 of the frames in which the rule chose among K1 tokens.

    A first frame runs every token in blocks 1-2, so more may pass at block 3 than budgets can hold.

    Raises:
        RecipeError: there are none.
    """
    counts = [frame.later for frame in frames if not (frame.first or frame.overruled)]
    if not counts:
        raise RecipeError("no frame shows what the rule keeps; give a video with more frames")
    return np.array(counts, np.int64)


def for_coverage(
    counts_n3: NDArray[np.int64], coverage: float, num_tokens: int, map_tokens: int
) -> Proposal:
    """The smallest budgets that cut nothing in this share of the frames.

    The three grow together: each is the same quantile of its own counts.

    Args:
        counts_n3: of `telling`.
        coverage: share of the frames, in (0, 1].
        num_tokens: N.
        map_tokens: K1, which the model's keep ratio sets.
    """
    levels = _levels(counts_n3)
    first = max(0, math.ceil(coverage * len(levels) - 1e-9) - 1)
    for level in levels[first:]:
        if (counts_n3 <= level).all(axis=1).mean() >= coverage - 1e-9:
            break
    return _proposal(level, counts_n3, num_tokens, map_tokens)


def for_saving(
    counts_n3: NDArray[np.int64], saving: float, num_tokens: int, map_tokens: int
) -> Proposal:
    """The largest budgets that leave out at least this share of the tokens, over all blocks.

    They never exceed the most that the rule kept, so footage that needs less is given less.

    Where even the frames of the fewest tokens need more, their counts are scaled down alike.

    Raises:
        RecipeError: Map-SM's share and the first block alone take more.
    """
    allowed = 1 - saving + 1e-9
    levels = _levels(counts_n3)
    fitting = [level for level in levels if share_kept((map_tokens, *level), num_tokens) <= allowed]
    if fitting:
        return _proposal(fitting[-1], counts_n3, num_tokens, map_tokens)
    least = share_kept((map_tokens, 1, 1, 1), num_tokens)
    if least > allowed:
        raise RecipeError(
            f"a saving of {saving:.0%} cannot be had: blocks 0-2 alone run {least:.1%} of the "
            f"tokens, {map_tokens} of {num_tokens} in blocks 1-2; lower model.keep_ratio, or save "
            "less"
        )
    factor = (allowed - least) / (share_kept((map_tokens, *levels[0]), num_tokens) - least)
    scaled = 1 + np.floor((levels[0] - 1) * factor).astype(np.int64)
    return _proposal(scaled, counts_n3, num_tokens, map_tokens)


def _levels(counts_n3: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each column in ascending order, 1 at least: row k is the (k + 1)/n quantile of all three."""
    # Of one frame, each count is at most the one before it, so of one row as well.
    return np.maximum(1, np.sort(counts_n3, axis=0))


def _proposal(
    level_3: NDArray[np.int64], counts_n3: NDArray[np.int64], num_tokens: int, map_tokens: int
) -> Proposal:
    k3, k6, k9 = (min(int(count), map_tokens) for count in level_3)
    fits_n3 = counts_n3 <= (k3, k6, k9)
    each = fits_n3.mean(axis=0).tolist()
    return Proposal(
        Budgets(map_tokens, k3, k6, k9),
        BudgetShares(*(_share(count, num_tokens) for count in (k3, k6, k9))),
        share_kept((map_tokens, k3, k6, k9), num_tokens),
        (each[0], each[1], each[2], float(fits_n3.all(axis=1).mean())),
    )


def _share(count: int, num_tokens: int) -> float:
    """A short number of which `BudgetShares.tokens` makes `count` again."""
    for digits in range(2, 8):
        share: float = round(math.ceil(count / num_tokens * 10**digits) / 10**digits, digits)
        if share <= 1 and int(num_tokens * share) == count:
            return share
    return min(1.0, (count + 0.5) / num_tokens)

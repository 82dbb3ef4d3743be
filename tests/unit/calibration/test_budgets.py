"""Budgets for a wanted coverage or a wanted saving."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vpp_deploy.calibration.budgets import for_coverage, for_saving, share_kept, telling
from vpp_deploy.calibration.rule import KeptTokens
from vpp_deploy.errors import RecipeError

N, K1 = 240, 168


def counts(*rows: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


nested = st.lists(
    st.lists(st.integers(0, K1), min_size=3, max_size=3).map(lambda row: sorted(row)[::-1]),
    min_size=1,
    max_size=40,
).map(lambda rows: np.array(rows, np.int64))


def test_all_frames_covered() -> None:
    proposal = for_coverage(counts((90, 70, 20), (60, 55, 50), (100, 40, 10)), 1.0, N, K1)
    b = proposal.budgets
    assert (b.blocks_1_2, b.blocks_3_5, b.blocks_6_8, b.blocks_9_11) == (K1, 100, 70, 50)
    assert proposal.coverage == (1, 1, 1, 1)


def test_share_kept_is_the_mean_of_the_blocks() -> None:
    blocks = [N] + [K1] * 2 + [100] * 3 + [70] * 3 + [50] * 3
    assert share_kept((K1, 100, 70, 50), N) == pytest.approx(sum(blocks) / 12 / N)
    assert share_kept((N, N, N, N), N) == pytest.approx(1)


@given(nested, st.floats(0.01, 1))
def test_what_is_covered_is_at_least_what_was_asked(
    counts_n3: NDArray[np.int64], coverage: float
) -> None:
    proposal = for_coverage(counts_n3, coverage, N, K1)
    b = proposal.budgets
    budgets = (b.blocks_3_5, b.blocks_6_8, b.blocks_9_11)
    assert proposal.coverage[3] >= coverage - 1e-6
    assert proposal.coverage[3] == pytest.approx((counts_n3 <= budgets).all(axis=1).mean())
    assert K1 >= budgets[0] >= budgets[1] >= budgets[2] >= 1
    assert proposal.shares.tokens(N, K1 / N + 1e-9) == b


@given(nested, st.floats(0.01, 1))
def test_smaller_budgets_would_cover_less(counts_n3: NDArray[np.int64], coverage: float) -> None:
    b = for_coverage(counts_n3, coverage, N, K1).budgets
    taken = np.array((b.blocks_3_5, b.blocks_6_8, b.blocks_9_11))
    levels = np.maximum(1, np.sort(counts_n3, axis=0))
    below = [level for level in levels if (level <= taken).all() and (level < taken).any()]
    if below:
        assert (counts_n3 <= below[-1]).all(axis=1).mean() < coverage


def test_where_no_frame_needs_so_little_its_counts_are_scaled_down_no_further_than_needed() -> None:
    least = (120, 80, 40)
    proposal = for_saving(counts(least, (130, 90, 50)), 0.6, N, K1)
    b = proposal.budgets
    taken = (b.blocks_3_5, b.blocks_6_8, b.blocks_9_11)
    assert [k / n for k, n in zip(taken, least, strict=True)] == pytest.approx(
        [taken[0] / 120] * 3, abs=0.02
    )
    assert share_kept((K1, *(k + 1 for k in taken)), N) > 0.4 >= proposal.kept


@given(nested, st.floats(0.1, 0.74))
def test_what_is_saved_is_at_least_what_was_asked(
    counts_n3: NDArray[np.int64], saving: float
) -> None:
    proposal = for_saving(counts_n3, saving, N, K1)
    assert proposal.kept <= 1 - saving + 1e-6
    assert proposal.shares.tokens(N, K1 / N + 1e-9) == proposal.budgets


def test_a_saving_takes_the_largest_budgets_that_allow_it() -> None:
    counts_n3 = counts(*((k, k // 2, k // 4) for k in range(1, K1)))
    proposal = for_saving(counts_n3, 0.5, N, K1)
    b = proposal.budgets
    more = b.blocks_3_5 + 1
    assert share_kept((K1, more, more // 2, more // 4), N) > 0.5 >= proposal.kept


def test_a_saving_that_the_first_blocks_forbid() -> None:
    with pytest.raises(RecipeError, match="blocks 0-2 alone run 20"):
        for_saving(counts((10, 5, 2)), 0.9, N, K1)


def test_what_tells_nothing_is_left_out() -> None:
    frame = KeptTokens(K1, (9, 8, 7), first=False, overruled=False)
    artefact = KeptTokens(N, (N, N, N), first=False, overruled=True)
    first = KeptTokens(N, (200, 190, 180), first=True, overruled=False)
    np.testing.assert_array_equal(telling([first, frame, artefact]), [[9, 8, 7]])
    with pytest.raises(RecipeError, match="more frames"):
        telling([first, artefact])

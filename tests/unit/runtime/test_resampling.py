"""The composed map against torch's two resizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from vpp_deploy.runtime.resampling import enlarge, plan_axis

Sizes = tuple[int, int, int, int]
"""Logits, padded input, resized frame, original frame: along one axis."""


def two_steps(values: NDArray[np.float32], heights: Sizes, widths: Sizes) -> NDArray[np.float64]:
    """Word for word: enlarge, crop, resize."""
    logits = torch.from_numpy(values).double()[None, None]
    padded = F.interpolate(logits, (heights[1], widths[1]), mode="bilinear", align_corners=False)
    cropped = padded[..., : heights[2], : widths[2]]
    frame = F.interpolate(cropped, (heights[3], widths[3]), mode="bilinear", align_corners=False)
    result: NDArray[np.float64] = frame[0, 0].numpy()
    return result


@st.composite
def axes(draw: st.DrawFn) -> Sizes:
    padded = 32 * draw(st.integers(1, 5))
    return padded // 4, padded, draw(st.integers(1, padded)), draw(st.integers(1, 300))


@settings(deadline=None, max_examples=200)
@given(axes(), axes(), st.sampled_from([(16, 64), (1, 8), (7, 8)]), st.data())
def test_same_as_two_resizes(
    heights: Sizes, widths: Sizes, sizes: tuple[int, int], data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal((heights[0], widths[0])).astype(np.float32)
    expected = two_steps(values, heights, widths)
    rows, cols = plan_axis(*heights, sizes[0]), plan_axis(*widths, sizes[1])
    whole = enlarge(values, rows, cols)
    np.testing.assert_allclose(whole[: heights[3], : widths[3]], expected, rtol=0, atol=1e-5)
    assert not whole[heights[3] :].any()
    assert not whole[:, widths[3] :].any()

    # Around some of the inputs: the same values, and nothing but zeros is left out.
    first = data.draw(st.integers(0, heights[0] - 1))
    left = data.draw(st.integers(0, widths[0] - 1))
    last = data.draw(st.integers(first + 1, heights[0]))
    right = data.draw(st.integers(left + 1, widths[0]))
    part = np.zeros_like(values)
    part[first:last, left:right] = values[first:last, left:right]
    rows, cols = rows.around(first, last), cols.around(left, right)
    expected = np.zeros_like(whole)
    if len(rows) and len(cols):
        made = enlarge(part, rows, cols)
        expected[rows.start :, cols.start :][: made.shape[0], : made.shape[1]] = made
    whole = enlarge(part, plan_axis(*heights, sizes[0]), plan_axis(*widths, sizes[1]))
    np.testing.assert_allclose(expected, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("last", [0, 3])
def test_nothing_lies_around_nothing(last: int) -> None:
    axis = plan_axis(8, 32, 30, 60, 16)
    assert len(axis.around(last, last)) == 0
    assert len(axis.around(0, 8)) == len(axis) == 4


def test_what_lies_in_the_padding_touches_no_output() -> None:
    axis = plan_axis(8, 32, 16, 32, 8)
    assert len(axis.around(6, 8)) == 0

"""Masks in bits against the same masks in pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vpp_deploy.runtime.detections import Detections, PackedMask

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 40)), fill=st.just(False))


@settings(deadline=None)
@given(MASKS)
def test_pixels_come_back(pixels: NDArray[np.bool_]) -> None:
    mask = PackedMask.of_pixels(pixels)
    unpacked = np.zeros_like(pixels)
    mask.unpack_into(unpacked)
    np.testing.assert_array_equal(unpacked, pixels)
    assert mask.area == pixels.sum()
    if pixels.any():
        rows, cols = np.nonzero(pixels)
        assert mask.box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
    else:
        assert mask.box == (0, 0, 0, 0)


@settings(deadline=None)
@given(st.data())
def test_intersection_wherever_the_windows_lie(data: st.DataObject) -> None:
    frame = np.zeros((2, 60, 120), np.bool_)
    masks = []
    for pixels in frame:
        window = data.draw(MASKS)
        height, width = window.shape
        top = data.draw(st.integers(0, 60 - height))
        left = 8 * data.draw(st.integers(0, (120 - width) // 8))
        pixels[top : top + height, left : left + width] = window
        masks.append(PackedMask.of_bits(np.packbits(window, axis=1), top, left))
    ours, theirs = masks
    assert ours.intersection(theirs) == (frame[0] & frame[1]).sum()
    assert theirs.intersection(ours) == (frame[0] & frame[1]).sum()
    assert ours.intersection(ours) == ours.area


def test_unpacks_the_rows_that_are_asked_for() -> None:
    pixels = np.random.default_rng(0).random((3, 21, 35)) > 0.7
    zeros = np.zeros(3, np.int64)
    found = Detections(
        zeros,
        zeros,
        zeros.astype(np.float32),
        np.zeros((3, 4), np.float32),
        [PackedMask.of_pixels(mask) for mask in pixels],
        (21, 35),
    )
    np.testing.assert_array_equal(found.pixels([2, 0]), pixels[[2, 0]])
    assert found.pixels([]).shape == (0, 21, 35)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 65])
def test_full_masks_end_with_the_frame(width: int) -> None:
    mask = PackedMask.of_pixels(np.ones((5, width), np.bool_))
    assert (mask.box, mask.area) == ((0, 0, width, 5), 5 * width)

"""Position encoding and cell centres, cell by cell (MODEL.md 3)."""

import math

import pytest

from vpp_deploy.models.positions import cell_centres, sine_encoding


def test_sine_encoding_cell_by_cell() -> None:
    height, width, channels = 3, 5, 256
    encoding = sine_encoding((height, width), channels)
    assert encoding.shape == (1, height * width, channels)
    for row, column, channel in ((0, 0, 0), (2, 4, 1), (1, 3, 127), (0, 2, 128), (2, 1, 201)):
        y = (row + 1) / (height + 1e-6) * 2 * math.pi
        x = (column + 1) / (width + 1e-6) * 2 * math.pi
        position = y if channel < 128 else x
        place = channel % 128
        angle = position / 10000 ** (2 * (place // 2) / 128)
        expected = math.cos(angle) if place % 2 else math.sin(angle)
        assert float(encoding[0, row * width + column, channel]) == pytest.approx(
            expected, abs=2e-6
        )


def test_cell_centres_are_x_then_y_level_after_level() -> None:
    centres = cell_centres(((1, 2), (2, 1)))
    assert centres.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]

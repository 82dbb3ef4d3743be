"""How one emoji moves, and how it is drawn: turning, growing, tilting out of the picture.

Lengths are in frame heights, times in frames, angles in radians.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.emoji_vis.artwork import Drawing, sprite

_FOCAL = 3.0
"""Distance of the eye, in widths of the emoji."""

_TURNS = 0.15
"""Share of the emoji that turn round and round."""

_CROSSINGS = 0.35
"""Share of the emoji that enter or leave the frame at some time of the clip."""

Vector = tuple[float, float]


@dataclass(frozen=True)
class Wave:
    """start + slope * t + swing * sin(rate * t + phase)."""

    start: float
    slope: float = 0.0
    swing: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def __call__(self, t: float) -> float:
        """The value at time `t`."""
        return self.start + self.slope * t + self.swing * math.sin(self.rate * t + self.phase)


def wave(rng: np.random.Generator, start: float, slope: float = 0.0, swing: float = 0.0) -> Wave:
    """A wave around a line, of a random rate and phase and up to `swing` high."""
    return Wave(
        start, slope, swing * rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0, 2 * math.pi)
    )


@dataclass(frozen=True)
class Mover:
    """One emoji on its way.

    Attributes:
        drawing: which.
        flipped: mirrored.
        gains: (3,) what its colours are multiplied by.
        x, y: its centre, in frame heights from the top left corner.
        log_size: logarithm of its longer side.
        roll, yaw, pitch: its angles; yaw and pitch tilt it out of the picture.
    """

    drawing: Drawing
    flipped: bool
    gains: tuple[float, float, float]
    x: Wave
    y: Wave
    log_size: Wave
    roll: Wave
    yaw: Wave
    pitch: Wave


def random_mover(
    rng: np.random.Generator, drawing: Drawing, aspect: float, length: int, *, late: bool = False
) -> Mover:
    """A mover that is in the frame, or at its edge, at some time of a clip of `length` frames.

    `late`: its centre comes in between a fifth and seven tenths of the clip; a large one shows
    before, in one of forty even in the first frame.
    """
    t0 = rng.uniform(0, length)
    if late:
        t0 = rng.uniform(0.2, 0.7) * length
        (x0, y0), (vx, vy) = _crossing(rng, aspect, inwards=True)
    elif rng.random() < _CROSSINGS:
        (x0, y0), (vx, vy) = _crossing(rng, aspect)
    else:
        (x0, y0), (vx, vy) = _drift(rng, aspect)
    if rng.random() < _TURNS:
        roll = Wave(rng.uniform(0, 2 * math.pi), rng.uniform(-0.07, 0.07))
    else:
        roll = wave(rng, rng.normal(0, 0.15), 0.0, 0.35)
    brightness = rng.uniform(0.85, 1.15)
    red, green, blue = brightness * rng.uniform(0.93, 1.07, 3)
    return Mover(
        drawing,
        bool(rng.random() < 0.5),
        (red, green, blue),
        wave(rng, x0 - vx * t0, vx, 0.06),
        wave(rng, y0 - vy * t0, vy, 0.06),
        wave(rng, rng.uniform(math.log(0.17), math.log(0.62)), rng.uniform(-0.012, 0.012), 0.12),
        roll,
        wave(rng, rng.normal(0, 0.2), 0.0, 0.5),
        wave(rng, rng.normal(0, 0.1), 0.0, 0.3),
    )


def _drift(rng: np.random.Generator, aspect: float) -> tuple[Vector, Vector]:
    """A place in the frame and a slow velocity."""
    speed, heading = 0.03 * rng.random() ** 2, rng.uniform(0, 2 * math.pi)
    place = rng.uniform(0.08, aspect - 0.08), rng.uniform(0.12, 0.88)
    return place, (speed * math.cos(heading), 0.6 * speed * math.sin(heading))


def _crossing(
    rng: np.random.Generator, aspect: float, *, inwards: bool = False
) -> tuple[Vector, Vector]:
    """A place at the frame's edge and a velocity across it, inwards or either way."""
    speed, aslant = rng.uniform(0.015, 0.06), rng.normal(0, 0.012)
    across = speed if rng.random() < 0.5 else -speed
    outside = rng.uniform(0, 0.15)
    sideways = rng.random() < 0.7
    before = rng.random() < 0.5
    if inwards:
        across = speed if before else -speed
    if sideways:
        return (-outside if before else aspect + outside, rng.uniform(0.1, 0.9)), (across, aslant)
    return (rng.uniform(0.1, aspect - 0.1), -outside if before else 1 + outside), (aslant, across)


def paint(
    canvas_HW3: NDArray[np.float32], mover: Mover, t: float, camera: tuple[float, float]
) -> NDArray[np.float32] | None:
    """Paints the emoji over the canvas, in place.

    Args:
        canvas_HW3: colours from 0 to 1.
        mover: the emoji.
        t: time.
        camera: how far the camera has moved, (x, y) in frame heights.

    Returns:
        Its alpha over the whole canvas, (H, W), or None where it is outside of it.
    """
    height, width = canvas_HW3.shape[:2]
    side = math.exp(mover.log_size(t)) * height
    levels = sprite(mover.drawing.text)
    level = next((s for s in reversed(levels) if max(s.shape[:2]) >= side), levels[0])
    corners = _corners(mover, t, level.shape[0], level.shape[1]) * side
    corners += np.array([mover.x(t) - camera[0], mover.y(t) - camera[1]]) * height
    left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, (width, height))
    if left >= right or top >= bottom:
        return None
    source = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (level.shape[1], level.shape[0])
    matrix = cv2.getPerspectiveTransform(
        (source - 0.5).astype(np.float32), (corners - (left, top) - 0.5).astype(np.float32)
    )
    rgba = cv2.warpPerspective(level, matrix, (int(right - left), int(bottom - top)))
    part = canvas_HW3[top:bottom, left:right]
    part *= 1 - rgba[..., 3:]
    part += rgba[..., :3] * np.array(mover.gains, np.float32)
    alpha = np.zeros((height, width), np.float32)
    alpha[top:bottom, left:right] = rgba[..., 3]
    return alpha


def _corners(mover: Mover, t: float, height: int, width: int) -> NDArray[np.float64]:
    """(4, 2) corners around the centre, clockwise from the top left; the longer side is 1."""
    flat = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width, height) / max(width, height) / 2
    if mover.flipped:
        flat[:, 0] *= -1
    roll, yaw, pitch = mover.roll(t), mover.yaw(t), mover.pitch(t)
    x = flat[:, 0] * math.cos(roll) - flat[:, 1] * math.sin(roll)
    y = flat[:, 0] * math.sin(roll) + flat[:, 1] * math.cos(roll)
    depth = _FOCAL + x * math.sin(yaw) + y * math.sin(pitch)
    seen = np.stack((x * math.cos(yaw), y * math.cos(pitch)), axis=1)
    return np.asarray(seen * (_FOCAL / depth[:, None]), np.float64)

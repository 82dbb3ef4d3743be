"""Clips: emoji over a photograph, with the exact masks and identities of what is visible.

A clip is a function of its seed, its split and its time, so any frame can be drawn on its own.

Shapes: H W frame, n emoji of a scene.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from examples.emoji_vis.artwork import DRAWINGS
from examples.emoji_vis.motion import Mover, Wave, paint, random_mover, wave
from examples.emoji_vis.photos import Split, photographs

MIN_AREA = 16
"""What shows fewer pixels of a 320x180 frame is not there."""

_REFERENCE_AREA = 320 * 180


@dataclass(frozen=True)
class Picture:
    """One frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: (n, H, W) bool, the visible part of each emoji; empty where too little shows.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Look:
    """What the camera does to the colours.

    Attributes:
        gain, contrast: over time.
        tints: (3,) of red, green and blue.
        blur: sigma in pixels of a frame 180 high, 0 for none.
        noise: standard deviation, of 255.
        quality: of a JPEG compression; None for none.
    """

    gain: Wave
    contrast: float
    tints: tuple[float, float, float]
    blur: float
    noise: float
    quality: int | None


@dataclass(frozen=True)
class Scene:
    """A clip before it is drawn.

    Attributes:
        labels: (n,) int64, indices into `artwork.CLASSES`.
        movers: the emoji, the farthest first.
    """

    seed: tuple[int, ...]
    movers: tuple[Mover, ...]
    photo: NDArray[np.uint8]
    place: tuple[float, float, float, float]
    flipped: bool
    camera_x: Wave
    camera_y: Wave
    look: Look

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,)."""
        return np.array([mover.drawing.label for mover in self.movers], np.int64)

    def draw(self, t: int, size: tuple[int, int]) -> Picture:
        """The frame at time `t`.

        Args:
            t: in frames.
            size: (H, W).
        """
        camera = self.camera_x(t), self.camera_y(t)
        canvas = self._background(camera, size)
        painted = [paint(canvas, mover, t, camera) for mover in self.movers]
        masks = np.zeros((len(painted), *size), np.bool_)
        covered = np.zeros(size, np.bool_)
        least = MIN_AREA * size[0] * size[1] / _REFERENCE_AREA
        for i in reversed(range(len(painted))):
            alpha = painted[i]
            if alpha is None:
                continue
            whole = alpha >= 0.5
            masks[i] = whole & ~covered
            covered |= whole
            if masks[i].sum() < least:
                masks[i] = False
        rng = np.random.default_rng((*self.seed, t))
        return Picture(_seen(canvas, self.look, t, rng), masks)

    def _background(
        self, camera: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """The photograph from its `place`: scale, turn and centre."""
        height, width = size
        zoom, angle, x, y = self.place
        scale = zoom * min(self.photo.shape[0] / height, self.photo.shape[1] / width)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        u = x * self.photo.shape[1] + scale * height * camera[0]
        v = y * self.photo.shape[0] + scale * height * camera[1]
        sign = -1 if self.flipped else 1
        to_photo = np.array(
            [
                [sign * cos, -sin, u - sign * cos * width / 2 + sin * height / 2],
                [sign * sin, cos, v - sign * sin * width / 2 - cos * height / 2],
            ]
        )
        seen = cv2.warpAffine(
            self.photo,
            to_photo,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.asarray(seen / np.float32(255), np.float32)


def random_scene(
    seed: tuple[int, ...], split: Split, aspect: float, length: int, *, late: bool = False
) -> Scene:
    """A scene of two to six emoji.

    Args:
        seed: whatever numbers tell this clip from others.
        split: which photographs and drawings it may use.
        aspect: width of the frames over their height.
        length: of the clip, in frames.
        late: all emoji but one come in during the clip, as `random_mover` takes it.
    """
    rng = np.random.default_rng(seed)
    drawings = [drawing for drawing in DRAWINGS if drawing.seen or split == "test"]
    by_label = [[d for d in drawings if d.label == label] for label in {d.label for d in drawings}]
    movers = []
    for number in range(rng.integers(2, 7)):
        of_class = by_label[rng.integers(len(by_label))]
        drawing = of_class[rng.integers(len(of_class))]
        movers.append(random_mover(rng, drawing, aspect, length, late=late and number > 0))
    photos = photographs(split)
    red, green, blue = rng.uniform(0.92, 1.08, 3)
    pan = 0.008 if rng.random() < 0.5 else 0.0
    return Scene(
        seed,
        tuple(movers),
        photos[rng.integers(len(photos))],
        (
            rng.uniform(0.35, 0.95),
            rng.normal(0, 0.15),
            rng.uniform(0.3, 0.7),
            rng.uniform(0.3, 0.7),
        ),
        bool(rng.random() < 0.5),
        wave(rng, 0.0, rng.uniform(-pan, pan), 0.02),
        wave(rng, 0.0, rng.uniform(-pan, pan) / 2, 0.02),
        Look(
            wave(rng, rng.uniform(0.75, 1.2), 0.0, 0.12),
            rng.uniform(0.8, 1.15),
            (red, green, blue),
            rng.uniform(0.4, 1.2) if rng.random() < 0.3 else 0.0,
            rng.uniform(0, 8),
            int(rng.integers(60, 95)) if rng.random() < 0.5 else None,
        ),
    )


def _seen(
    canvas: NDArray[np.float32], look: Look, t: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    image = canvas
    if look.blur:
        sigma = look.blur * canvas.shape[0] / 180
        image = np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma), np.float32)
    gains = np.array(look.tints, np.float32) * look.gain(t)
    lit = 255 * ((image * gains - 0.5) * look.contrast + 0.5)
    noisy = lit + rng.standard_normal(lit.shape, np.float32) * look.noise
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    if look.quality is None:
        return pixels
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, look.quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)

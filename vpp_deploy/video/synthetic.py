"""Frames without a video: a textured scene that pans while patches of it move on their own."""

from collections.abc import Iterator

import cv2
import numpy as np

from vpp_deploy.video.source import Frame

_NUM_OBJECTS = 3


def moving_scene(size: tuple[int, int], num_frames: int, seed: int = 0) -> Iterator[Frame]:
    """Yields `num_frames` frames of (H, W) = `size` pixels, the same for the same seed.

    Smooth texture at several scales gives every patch something of its own to be matched by.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    scene = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64):
        coarse = rng.random((cells, cells, 3), np.float32)
        scene += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 3
    scene_u8 = (scene.clip(0, 1) * 255).astype(np.uint8)
    side = min(height, width) // 4
    starts = rng.integers(0, (height - side, width - side), (_NUM_OBJECTS, 2))
    steps = rng.integers(-8, 9, (_NUM_OBJECTS, 2))
    colours = rng.integers(0, 256, (_NUM_OBJECTS, 3))
    for index in range(num_frames):
        rgb = np.roll(scene_u8, 3 * index, axis=1)
        for start, step, colour in zip(starts, steps, colours, strict=True):
            y, x = (start + index * step).clip(0, (height - side, width - side))
            rgb[y : y + side, x : x + side] = rgb[y : y + side, x : x + side] // 2 + colour // 2
        yield Frame(index, None, rgb)

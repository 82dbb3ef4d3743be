"""What a training step sees: clips, made up on the spot from the step's number.

Shapes: B clips, F frames of each, n objects of a clip, H W padded input, h w a quarter of it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from examples.emoji_vis.network import FRAME_SIZE, INPUT_SIZE
from examples.emoji_vis.photos import Split
from examples.emoji_vis.scenes import random_scene

_LENGTH = 24
_MAX_STEP = 4
"""Frames between two frames of a clip, at most."""


@dataclass(frozen=True)
class Targets:
    """What is in one clip.

    Attributes:
        labels_n: int64.
        masks_Fnhw: share of each cell that the object fills, float32.
        present_Fn: bool, whether anything of it is visible.
    """

    labels_n: Tensor
    masks_Fnhw: Tensor
    present_Fn: Tensor


@dataclass(frozen=True)
class Batch:
    """Some clips of equal length.

    Attributes:
        frames_BFHW3: uint8 RGB, padded.
        sizes_2: (height, width) of the frames inside of the padding.
        targets: of each clip.
    """

    frames_BFHW3: Tensor
    sizes_2: Tensor
    targets: tuple[Targets, ...]

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        targets = tuple(
            Targets(t.labels_n.to(device), t.masks_Fnhw.to(device), t.present_Fn.to(device))
            for t in self.targets
        )
        return Batch(self.frames_BFHW3.to(device), self.sizes_2.to(device), targets)


def make_batch(seed: tuple[int, ...], split: Split, num_clips: int, num_frames: int) -> Batch:
    """The batch of this seed."""
    height, width = FRAME_SIZE
    frames = np.zeros((num_clips, num_frames, *INPUT_SIZE, 3), np.uint8)
    targets = []
    for b in range(num_clips):
        # NumPy pads seeds with zeros, so a 0 at the end tells no clip from another.
        scene = random_scene((*seed, b + 1), split, width / height, _LENGTH)
        rng = np.random.default_rng((*seed, b + 1, _LENGTH))
        step = int(rng.integers(1, _MAX_STEP + 1))
        start = int(rng.integers(0, _LENGTH - step * (num_frames - 1)))
        pictures = [scene.draw(start + step * f, FRAME_SIZE) for f in range(num_frames)]
        frames[b, :, :height, :width] = [picture.image for picture in pictures]
        masks = np.stack([_shrunk(picture.masks) for picture in pictures])
        present = np.stack([picture.masks.any((1, 2)) for picture in pictures])
        ever = present.any(0)
        targets.append(
            Targets(
                torch.from_numpy(scene.labels[ever]),
                torch.from_numpy(masks[:, ever]),
                torch.from_numpy(present[:, ever]),
            )
        )
    return Batch(torch.from_numpy(frames), torch.tensor(FRAME_SIZE), tuple(targets))


def _shrunk(
    masks_nHW: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(n, h, w): masks of a frame at a quarter of the padded input."""
    padded = np.zeros((*INPUT_SIZE, len(masks_nHW)), np.float32)
    padded[: masks_nHW.shape[1], : masks_nHW.shape[2]] = masks_nHW.transpose(1, 2, 0)
    small = cv2.resize(
        padded, (INPUT_SIZE[1] // 4, INPUT_SIZE[0] // 4), interpolation=cv2.INTER_AREA
    )
    return np.ascontiguousarray(
        small.reshape(*small.shape[:2], -1).transpose(2, 0, 1), dtype=np.float32
    )

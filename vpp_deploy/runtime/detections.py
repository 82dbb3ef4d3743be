"""What post-processing hands to the tracker: instances of one frame, their masks in bits.

A mask at the frame's size is large and the tracker keeps only some: eight pixels to a byte, and
nothing outside the mask's own surroundings, is all that counting an overlap needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class PackedMask:
    """One mask, 8 pixels of a row to a byte, as np.packbits orders them.

    Attributes:
        bits: (h, w) uint8, a window that holds every set pixel.
        top, left: where the window lies in the frame, in pixels; left is a multiple of 8.
        box: x1, y1, x2, y2 in pixels of the frame, tight, x2 and y2 exclusive; zeros if empty.
        area: how many pixels are set.
    """

    bits: NDArray[np.uint8]
    top: int
    left: int
    box: tuple[int, int, int, int]
    area: int

    @classmethod
    def of_bits(cls, bits: NDArray[np.uint8], top: int, left: int) -> "PackedMask":
        """A mask from a window of bits, cut to what is set.

        Args:
            bits: (h, w) uint8, 8 pixels of a row to a byte; not copied.
            top: where the window lies in the frame, in pixels.
            left: likewise, a multiple of 8.
        """
        rows = np.flatnonzero(np.bitwise_or.reduce(bits, axis=1))
        if len(rows) == 0:
            return cls(bits[:0, :0], 0, 0, (0, 0, 0, 0), 0)
        cols = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(bits, axis=0)))
        y1, y2 = int(rows[0]), int(rows[-1]) + 1
        x1, x2 = int(cols[0]), int(cols[-1]) + 1
        bits = bits[y1:y2, x1 // 8 : -(-x2 // 8)]
        box = (left + x1, top + y1, left + x2, top + y2)
        return cls(bits, top + y1, left + x1 // 8 * 8, box, _count(bits))

    @classmethod
    def of_pixels(cls, mask: NDArray[np.bool_]) -> "PackedMask":
        """A mask from its (H, W) pixels."""
        return cls.of_bits(np.packbits(mask, axis=1), 0, 0)

    def intersection(self, other: "PackedMask") -> int:
        """How many pixels both masks share."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + len(self.bits), other.top + len(other.bits))
        right = min(self.left + 8 * self.bits.shape[1], other.left + 8 * other.bits.shape[1])
        if top >= bottom or left >= right:
            return 0
        ours, theirs = (
            mask.bits[
                top - mask.top : bottom - mask.top,
                (left - mask.left) // 8 : (right - mask.left) // 8,
            ]
            for mask in (self, other)
        )
        return _count(ours & theirs)

    def unpack_into(self, frame: NDArray[np.bool_]) -> None:
        """Sets this mask's pixels in a (H, W) frame that has none set."""
        _, y1, x2, y2 = self.box
        if self.area == 0:
            return
        pixels = np.unpackbits(self.bits, axis=1, count=x2 - self.left)
        frame[y1:y2, self.left : x2] = pixels.view(np.bool_)


@dataclass(frozen=True)
class Detections:
    """Instances found in one frame, before tracking, best score first (MODEL.md 4).

    Attributes:
        query_ids: (n,) int64, the query behind each instance: 0-99 static, 100 + t for the t-th
            track query. A query may appear with several labels.
        labels: (n,) int64, class index from 0.
        scores: (n,) float32, class score times mask score.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of the frame, x2 and y2 exclusive.
        masks: n masks at the frame's size.
        frame_size: (H, W) of the masks.
    """

    query_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    masks: Sequence[PackedMask]
    frame_size: Size

    def __len__(self) -> int:
        return len(self.query_ids)

    def pixels(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """(len(rows), H, W) the masks of these rows, unpacked."""
        masks = np.zeros((len(rows), *self.frame_size), np.bool_)
        for mask, row in zip(masks, rows, strict=True):
            self.masks[row].unpack_into(mask)
        return masks


def _count(bits: NDArray[np.uint8]) -> int:
    """Set bits; the Hamming norm counts them in one pass, with no array of counts between."""
    return int(cv2.norm(bits, cv2.NORM_HAMMING)) if bits.size else 0

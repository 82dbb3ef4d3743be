"""What one frame gives: plain arrays that every later part (tracker, sinks, drawing) passes on."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def majority(labels: Counter[int]) -> int:
    """The label given most often; of equal ones the smallest (MODEL.md 5)."""
    return min(labels, key=lambda label: (-labels[label], label))


@dataclass(frozen=True)
class Tracks:
    """Instances of one frame with their identity: existing tracks by score, then new by score.

    Attributes:
        ids: (n,) int64, stable through the video, counted from 0, with gaps.
        labels: (n,) int64, class index from 0.
        scores: (n,) float32, class score times mask score.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of the frame, x2 and y2 exclusive, tight around
            the mask; zeros if it is empty.
        masks: (n, H, W) bool at the frame's size.
        query_ids: (n,) int64, the query that carried each instance in this frame: 0-99 static,
            100 + t for the t-th track query.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    masks: NDArray[np.bool_]
    query_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FrameResult:
    """What a session returns for one frame.

    Attributes:
        index: the frame's number in its source, from 0.
        time_s: presentation time in seconds, None where the source has none.
        tracks: the tracked instances.
        stage_ms: wall time per stage in milliseconds, in the order they ran.
        first: True for a first frame or the frame after a reset (all tokens ran).
        tracks_dropped: tracks forgotten in this frame because every track slot was taken.
    """

    index: int
    time_s: float | None
    tracks: Tracks
    stage_ms: dict[str, float]
    first: bool
    tracks_dropped: int

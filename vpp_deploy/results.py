"""What one frame gives: plain arrays that every later part (tracker, sinks, drawing) passes on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import supervision


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

    def to_supervision(self, classes: Sequence[str]) -> "supervision.Detections":
        """The same for the package supervision, which must be installed.

        Args:
            classes: names by label; they come as `data["class_name"]`.

        Raises:
            ImportError: supervision is not installed.
        """
        import supervision

        names = np.array([classes[label] for label in self.labels], np.str_)
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.ids,
            data={"class_name": names},
        )


Reset = Literal["start", "scene cut", "refresh", "frame size", "reconnect"]
"""Why a frame ran without the temporal state of the one before.

A refresh drops the state alone, anything else but the start of a video the tracks as well; ids go
on in either case.
"""


@dataclass(frozen=True)
class TokenMap:
    """Which patches of one frame ran in which blocks.

    Attributes:
        depth: (h, w) uint8, of each patch of the input: 0 if it was dropped before block 1, 1 if it
            ran in blocks 1-2 only, 2 up to block 5, 3 up to block 8, 4 to the end.
        resized: (height, width) of the frame in the input, in pixels, at the top left; a patch has
            16 pixels a side, and what lies outside is padding.
    """

    depth: NDArray[np.uint8]
    resized: tuple[int, int]


@dataclass(frozen=True)
class FrameResult:
    """What a session returns for one frame.

    Attributes:
        index: the frame's number in its source, from 0.
        time_s: presentation time in seconds, None where the source has none.
        tracks: the tracked instances.
        stage_ms: wall time per stage in milliseconds, in the order they ran.
        reset: why the frame ran without temporal state, every token in blocks 1-2; None if it did
            not.
        tracks_dropped: ids of the tracks forgotten after it because every track slot was taken.
        alive: (T,) int64, ids that later frames may give again; all others are done with.
        tokens: which patches ran where; None where nobody asked.
    """

    index: int
    time_s: float | None
    tracks: Tracks
    stage_ms: dict[str, float]
    reset: Reset | None
    tracks_dropped: tuple[int, ...]
    alive: NDArray[np.int64]
    tokens: TokenMap | None = None

    @property
    def first(self) -> bool:
        """Whether the frame ran without temporal state."""
        return self.reset is not None

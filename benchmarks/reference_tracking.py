"""Post-processing and tracker as the public code runs them (MODEL.md 4, 5 and 7).

Every query's mask is resized to the whole frame, every one of the best pairs is scored, and every
mask of a track is kept at the frame's size for as long as the track lives.

Shapes: Q = static + track queries, n instances, H W the padded input, Ho Wo the frame.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vpp_deploy.results import Tracks

STATIC_THRESHOLD, TRACK_THRESHOLD = 0.3, 0.25
EXISTING_IOU, NEW_IOU = 0.7, 0.4
CARRY_SCORE = 0.3
FORGET_AFTER = 10


@dataclass(frozen=True)
class Instances:
    """Instances of one frame.

    Attributes:
        query_ids: (n,) int64.
        labels: (n,) int64.
        scores: (n,) float32.
        boxes: (n, 4) float32, x1 y1 x2 y2 in pixels of the frame.
        masks: (n, Ho, Wo) bool.
    """

    query_ids: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.query_ids)

    def take(self, rows: Tensor) -> "Instances":
        """Only these, in this order; `rows` are indices, or bool."""
        return Instances(
            self.query_ids[rows],
            self.labels[rows],
            self.scores[rows],
            self.boxes[rows],
            self.masks[rows],
        )


def find_instances(
    class_logits_QK: Tensor,
    mask_logits_QHW: Tensor,
    num_static: int,
    input_size: tuple[int, int],
    resized: tuple[int, int],
    frame_size: tuple[int, int],
) -> Instances:
    """Instances of one frame above their thresholds, best score first (MODEL.md 4).

    Args:
        class_logits_QK: of the last layer, background last.
        mask_logits_QHW: of the last layer, at a quarter of the input's size.
        num_static: queries before the track queries.
        input_size: (H, W), the padded input.
        resized: (h, w), the frame within it, top left.
        frame_size: (Ho, Wo).
    """
    logits_1QHW = F.interpolate(
        mask_logits_QHW[None], size=input_size, mode="bilinear", align_corners=False
    )
    cropped_QHW = logits_1QHW[0][:, : resized[0], : resized[1]]
    frame_QHW = F.interpolate(
        cropped_QHW[:, None], size=frame_size, mode="bilinear", align_corners=False
    )[:, 0]

    num_queries, num_classes = class_logits_QK.shape[0], class_logits_QK.shape[1] - 1
    class_scores_QK = class_logits_QK.softmax(-1)[:, :-1]
    scores, best = class_scores_QK.flatten().topk(num_queries, sorted=False)
    query_ids, labels = best // num_classes, best % num_classes
    masks = frame_QHW[query_ids]
    inside = (masks > 0).float()
    mask_scores = (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    scores = scores * mask_scores
    inside = inside.bool()
    pairs = Instances(query_ids, labels, scores, _boxes(inside), inside)

    thresholds = torch.where(query_ids < num_static, STATIC_THRESHOLD, TRACK_THRESHOLD)
    found = pairs.take(scores > thresholds)
    return found.take(found.scores.argsort(descending=True))


def _boxes(masks: Tensor) -> Tensor:
    """(n, 4) tight boxes, x2 and y2 exclusive, zeros for empty masks."""
    boxes = torch.zeros(len(masks), 4)
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    for i in range(len(masks)):
        x, y = torch.where(columns[i])[0], torch.where(rows[i])[0]
        if len(x) and len(y):
            boxes[i] = torch.stack((x[0], y[0], x[-1] + 1, y[-1] + 1)).float()
    return boxes


@dataclass
class _Track:
    """A track's whole past: nothing of it is given up before the track itself."""

    query: Tensor
    last_frame: int
    masks: list[Tensor] = field(default_factory=list)


class ReferenceTracker:
    """Follows the instances of one video; its memory grows with the masks of living tracks."""

    def __init__(self, query_width: int) -> None:
        self._tracks: dict[int, _Track] = {}
        self._next_id = 0
        self._query_width = query_width

    def track_queries(self) -> Tensor:
        """(T, D) in the order in which the tracks were first stored."""
        queries = [track.query for track in self._tracks.values()]
        return torch.stack(queries) if queries else torch.zeros(0, self._query_width)

    def update(self, frame_index: int, found: Instances, queries_QD: Tensor) -> Tracks:
        """Identities of one frame's instances (MODEL.md 5).

        Args:
            frame_index: counts up through the video.
            found: best score first.
            queries_QD: the head's output queries, the last ones those of `track_queries`.
        """
        num_static = len(queries_QD) - len(self._tracks)
        is_track = found.query_ids >= num_static
        existing = _nms(found.take(is_track), 0, EXISTING_IOU)
        known = list(self._tracks)
        ids = [known[q - num_static] for q in existing.query_ids.tolist()]
        new = found.take(~is_track)
        ids += range(self._next_id, self._next_id + len(new))
        self._next_id += len(new)
        both = Instances(
            *(
                torch.cat((getattr(existing, name), getattr(new, name)))
                for name in Instances.__dataclass_fields__
            )
        )
        rows = _nms_rows(both, len(existing), NEW_IOU)
        seen = both.take(torch.tensor(rows, dtype=torch.int64))
        ids = [ids[row] for row in rows]
        if len(found):
            self._store(frame_index, ids, seen, queries_QD)
        return Tracks(
            np.array(ids, np.int64),
            seen.labels.numpy(),
            seen.scores.numpy(),
            seen.boxes.numpy(),
            seen.masks.numpy(),
            seen.query_ids.numpy(),
        )

    def _store(self, frame_index: int, ids: list[int], seen: Instances, queries_QD: Tensor) -> None:
        for row, identity in enumerate(ids):
            query = queries_QD[seen.query_ids[row]]
            track = self._tracks.setdefault(identity, _Track(query, frame_index))
            if seen.scores[row] >= CARRY_SCORE:
                track.query = query
            track.last_frame = frame_index
            track.masks.append(seen.masks[row])
        self._tracks = {
            identity: track
            for identity, track in self._tracks.items()
            if frame_index - track.last_frame < FORGET_AFTER
        }


def _nms(instances: Instances, num_fixed: int, threshold: float) -> Instances:
    rows = _nms_rows(instances, num_fixed, threshold)
    return instances.take(torch.tensor(rows, dtype=torch.int64))


def _nms_rows(instances: Instances, num_fixed: int, threshold: float) -> list[int]:
    """Rows that overlap no kept earlier one by more; the first `num_fixed` stay in any case."""
    kept = list(range(num_fixed))
    areas = [int(mask.sum()) for mask in instances.masks]

    def overlap(a: int, b: int) -> float:
        shared = int((instances.masks[a] & instances.masks[b]).sum())
        return (shared + 1e-6) / (areas[a] + areas[b] - shared + 1e-6)

    for row in range(num_fixed, len(instances)):
        if all(overlap(row, other) <= threshold for other in kept):
            kept.append(row)
    return kept

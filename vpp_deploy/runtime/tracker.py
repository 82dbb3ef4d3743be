"""Identities through a video: the published tracker with its state in plain sight (MODEL.md 5).

A track is a query that is carried from frame to frame. What the network finds with that query is
the track, seen again; what it finds with a static query is a new track, unless it overlaps one
that is already there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.results import Tracks
from vpp_deploy.runtime.detections import Detections

EXISTING_IOU = 0.7
"""An existing track that overlaps a better one by more was not seen in this frame."""

NEW_IOU = 0.4
"""A new track that overlaps an existing or a better new one by more is not stored."""

CARRY_SCORE = 0.3
"""An existing track seen with a lower score keeps the query that it came in with."""

FORGET_AFTER = 10
"""A track that was last seen so many frames ago is forgotten."""


@dataclass(frozen=True)
class TrackMemory:
    """The tracks that are alive, in the order in which they were first stored.

    Attributes:
        ids: (T,) int64.
        queries: (T, D) float32, what the next frame's head is given.
        last_frames: (T,) int64, the frame in which each was last seen.
        scores: (T,) float32, in that frame.
    """

    ids: NDArray[np.int64]
    queries: NDArray[np.float32]
    last_frames: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp]) -> "TrackMemory":
        """Only these tracks, in this order."""
        return TrackMemory(
            self.ids[rows], self.queries[rows], self.last_frames[rows], self.scores[rows]
        )


@dataclass(frozen=True)
class TrackerUpdate:
    """What one frame gives.

    Attributes:
        tracks: the instances seen in this frame.
        dropped: ids of the tracks forgotten after it because every slot was taken.
    """

    tracks: Tracks
    dropped: tuple[int, ...]


class Tracker:
    """Follows the instances of one video.

    Attributes:
        slots: how many tracks the network has room for, None for any number.
        memory: the tracks that are alive.
        next_id: the id of the next new track.
    """

    def __init__(self, slots: int | None, query_width: int = 256) -> None:
        """Starts with no tracks.

        Args:
            slots: how many tracks the network has room for, None for any number (the published
                behaviour). When more are alive after a frame, those seen last stay, of them those
                with the best scores (of equal ones, the older).
            query_width: D, the width of a query.
        """
        self.slots = slots
        self._query_width = query_width
        self.next_id = 0
        self.forget()

    def forget(self) -> None:
        """Forgets every track; ids go on, so that none is given twice."""
        self.memory = TrackMemory(
            np.zeros(0, np.int64),
            np.zeros((0, self._query_width), np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
        )

    def __len__(self) -> int:
        """How many tracks are alive: the track queries of the next frame."""
        return len(self.memory)

    def track_queries(self) -> NDArray[np.float32]:
        """(T, D) the queries of the next frame's tracks; row t belongs to `memory.ids[t]`."""
        return self.memory.queries

    def update(
        self, frame_index: int, detections: Detections, queries: NDArray[np.float32]
    ) -> TrackerUpdate:
        """Gives one frame's detections their identities and stores what was seen.

        Args:
            frame_index: counts up through the video; only differences matter.
            detections: of this frame, best score first; `query_ids` from the number of static
                queries on are the rows of `track_queries()`.
            queries: (static + slots, D), or (static + T, D) with no fixed slots, the head's output
                queries before post_norm.

        Returns:
            The frame's tracks (existing by score, then new by score) and the overflow.
        """
        if len(detections) == 0:
            return TrackerUpdate(_tracks(detections, [], np.zeros(0, np.int64)), ())

        num_static = len(queries) - (len(self) if self.slots is None else self.slots)
        rows = detections.query_ids - num_static
        overlaps = MaskOverlaps(detections)
        existing = greedy_nms(overlaps, np.flatnonzero(rows >= 0), EXISTING_IOU)

        # New ids are handed out before the NMS: those of the instances it drops are used up.
        new = np.flatnonzero(rows < 0)
        ids = np.empty(len(detections), np.int64)
        ids[existing] = self.memory.ids[rows[existing]]
        ids[new] = self.next_id + np.arange(len(new))
        self.next_id += len(new)
        seen = greedy_nms(overlaps, new, NEW_IOU, kept=existing)
        tracks = _tracks(detections, seen, ids[seen])

        self._store(frame_index, tracks, len(existing), rows[existing], queries)
        dropped = self._forget(frame_index)
        return TrackerUpdate(tracks, dropped)

    def _store(
        self,
        frame_index: int,
        tracks: Tracks,
        num_existing: int,
        rows: NDArray[np.int64],
        queries: NDArray[np.float32],
    ) -> None:
        """Writes the first `num_existing` tracks to their rows, appends the others."""
        memory = self.memory
        seen = queries[tracks.query_ids]
        weak = tracks.scores[:num_existing] < CARRY_SCORE
        stored = memory.queries.copy()
        stored[rows] = np.where(weak[:, None], stored[rows], seen[:num_existing])
        last_frames = memory.last_frames.copy()
        last_frames[rows] = frame_index
        scores = memory.scores.copy()
        scores[rows] = tracks.scores[:num_existing]

        num_new = len(tracks) - num_existing
        self.memory = TrackMemory(
            np.concatenate([memory.ids, tracks.ids[num_existing:]]),
            np.concatenate([stored, seen[num_existing:]]),
            np.concatenate([last_frames, np.full(num_new, frame_index)]),
            np.concatenate([scores, tracks.scores[num_existing:]]),
        )

    def _forget(self, frame_index: int) -> tuple[int, ...]:
        """Drops the tracks that were not seen for long, then those without a slot (returned)."""
        recent = np.flatnonzero(frame_index - self.memory.last_frames < FORGET_AFTER)
        self.memory = self.memory.take(recent)
        # What is visible comes first: forgotten, it would only be found again under another id.
        best = np.lexsort((-self.memory.scores, -self.memory.last_frames))[: self.slots]
        dropped = np.delete(self.memory.ids, best)
        self.memory = self.memory.take(np.sort(best))
        return tuple(dropped.tolist())


class MaskOverlaps:
    """Mask IoU of pairs of detections, each computed when it is asked for."""

    def __init__(self, detections: Detections) -> None:
        """Takes the masks of n instances."""
        self._masks = detections.masks

    def exceeds(self, i: int, j: int, threshold: float) -> bool:
        """Whether (intersection + 1e-6) / (union + 1e-6) is greater; two empty masks are equal."""
        areas = self._masks[i].area, self._masks[j].area
        # At best one lies within the other, which the areas alone may rule out.
        if (min(areas) + 1e-6) / (max(areas) + 1e-6) <= threshold:
            return False
        intersection = self._masks[i].intersection(self._masks[j])
        union = sum(areas) - intersection
        return (intersection + 1e-6) / (union + 1e-6) > threshold


def greedy_nms(
    overlaps: MaskOverlaps,
    candidates: NDArray[np.intp],
    threshold: float,
    kept: Sequence[int] = (),
) -> list[int]:
    """Keeps each candidate, in order, whose IoU with all kept before it is at most `threshold`.

    Args:
        overlaps: of the detections.
        candidates: indices of detections, best first.
        threshold: mask IoU.
        kept: indices that stay whatever they overlap, ahead of the candidates.

    Returns:
        `kept`, then the surviving candidates.
    """
    survivors = list(kept)
    for i in candidates.tolist():
        if not any(overlaps.exceeds(i, j, threshold) for j in survivors):
            survivors.append(i)
    return survivors


def _tracks(detections: Detections, rows: list[int], ids: NDArray[np.int64]) -> Tracks:
    """These detections under these ids."""
    index = np.array(rows, np.intp)
    return Tracks(
        ids,
        detections.labels[index],
        detections.scores[index],
        detections.boxes[index],
        detections.pixels(rows),
        detections.query_ids[index],
    )

"""One stream of a session: its tracks, its place in its video, and when it starts anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import ResumeError
from vpp_deploy.results import Reset
from vpp_deploy.runtime.tracker import Tracker, TrackMemory
from vpp_deploy.video.resize import ResizePlan
from vpp_deploy.video.scene_cuts import SceneCuts
from vpp_deploy.video.source import Frame

Snapshot = Mapping[str, NDArray[Any]]
"""What a stream carries between two frames, as arrays by name."""


@dataclass(frozen=True)
class ResetPolicy:
    """When a stream runs a frame without the state of the one before, beside where it must.

    Attributes:
        scene_cuts: at scene cuts, where the tracks are forgotten, too.
        refresh_every: so many frames after the last such frame, tracks staying; None: never.

    Raises:
        ValueError: `refresh_every` is less than 1.
    """

    scene_cuts: bool = False
    refresh_every: int | None = None

    def __post_init__(self) -> None:
        if self.refresh_every is not None and self.refresh_every < 1:
            raise ValueError(f"refresh_every is {self.refresh_every}, expected 1 or more")


class Stream:
    """What one stream carries between frames beside the runner's temporal state.

    Attributes:
        tracker: its tracks.
        reset: why the next frame, or the one in hand, runs without temporal state; None: it has it.
        plan: how its frames become the input; None before the first.
        frames_seen: since the start of its video.
    """

    def __init__(self, tracker: Tracker, policy: ResetPolicy) -> None:
        """Starts at the first frame of a video."""
        self.tracker = tracker
        self.reset: Reset | None = "start"
        self.plan: ResizePlan | None = None
        self.frames_seen = 0
        self._since_reset = 0
        self._policy = policy
        self._cuts = SceneCuts()

    def meet(self, frame: Frame, plan: ResizePlan, resized: NDArray[np.uint8]) -> None:
        """Takes the next frame, and decides whether it can use the state of the one before.

        Args:
            frame: as it was read.
            plan: how it became `resized`.
            resized: (h, w, 3) uint8.
        """
        is_cut = self._policy.scene_cuts and self._cuts.is_cut(resized)
        if self.reset is None:
            assert self.plan is not None
            if frame.discontinuity:
                self.reset = "reconnect"
            elif self.plan.frame_size != plan.frame_size:
                # Its tokens no longer lie where those of the frame before did.
                self.reset = "frame size"
            elif is_cut:
                self.reset = "scene cut"
            elif self._since_reset == self._policy.refresh_every:
                self.reset = "refresh"
            if self.reset not in (None, "refresh"):
                self.tracker.forget()
        self.plan = plan

    def passed(self) -> Reset | None:
        """Counts the frame in hand as done; returns why it ran without temporal state, if so."""
        reset, self.reset = self.reset, None
        self._since_reset = 1 if reset is not None else self._since_reset + 1
        self.frames_seen += 1
        return reset

    def save(self) -> dict[str, NDArray[Any]]:
        """All of it, between two frames."""
        memory, thumbnail = self.tracker.memory, self._cuts.thumbnail
        counts = (self.tracker.next_id, self.frames_seen, self._since_reset)
        return {
            "counts": np.array(counts, np.int64),
            "frame_size": np.array(self.plan.frame_size if self.plan else (0, 0), np.int64),
            "track_ids": memory.ids,
            "track_queries": memory.queries,
            "track_last_frames": memory.last_frames,
            "track_scores": memory.scores,
            "thumbnail": np.zeros((0, 0, 3), np.uint8) if thumbnail is None else thumbnail,
        }

    def restore(self, saved: Snapshot) -> tuple[int, int]:
        """Puts back what `save` gave, so that the next frame goes on from it.

        Returns:
            (Ho, Wo) of the frames so far; the caller sets the plan.

        Raises:
            ResumeError: it is not what `save` gives, or another kind of stream's.
        """
        memory = self.tracker.memory
        num_tracks = len(checked(saved, "track_ids", np.int64, (-1,)))
        slots = self.tracker.slots
        if slots is not None and num_tracks > slots:
            raise ResumeError(f"{num_tracks} tracks were saved, expected {slots} at most")
        self.tracker.memory = TrackMemory(
            saved["track_ids"],
            checked(saved, "track_queries", np.float32, (num_tracks, memory.queries.shape[1])),
            checked(saved, "track_last_frames", np.int64, (num_tracks,)),
            checked(saved, "track_scores", np.float32, (num_tracks,)),
        )
        counts = checked(saved, "counts", np.int64, (3,)).tolist()
        self.tracker.next_id, self.frames_seen, self._since_reset = counts
        thumbnail = checked(saved, "thumbnail", np.uint8, (-1, -1, 3))
        self._cuts.thumbnail = thumbnail if thumbnail.size else None
        self.reset = None
        height, width = checked(saved, "frame_size", np.int64, (2,)).tolist()
        if min(height, width) < 1:
            raise ResumeError(f"the saved frame size is {width}x{height}, expected that of a frame")
        return height, width


def checked(
    saved: Snapshot, name: str, dtype: type[np.generic] | np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """An array of a snapshot; a size of -1 is any.

    Raises:
        ResumeError: it is missing, or of another type or shape.
    """
    array = saved.get(name)
    if array is None:
        raise ResumeError(f"the saved state has no {name}")
    fitting = len(array.shape) == len(shape) and all(
        want in (-1, got) for got, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fitting:
        raise ResumeError(
            f"the saved {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    return array

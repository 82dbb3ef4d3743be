"""One stream of a session: its tracks, its place in its video, and when it starts anew."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import ResumeError
from vpp_deploy.results import Reset
from vpp_deploy.runtime.snapshots import Snapshot, check_within, checked
from vpp_deploy.runtime.tracker import Tracker, TrackMemory
from vpp_deploy.video.resize import ResizePlan
from vpp_deploy.video.scene_cuts import THUMBNAIL_SHAPE, SceneCuts
from vpp_deploy.video.source import Frame

_MAX_COUNT = 2**53
"""Frames or tracks: more than any video has."""

_MAX_SIDE = 2**16
"""Pixels: more than any decoder gives."""


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
        counts = checked(saved, "counts", np.int64, (3,))
        next_id, frames_seen, since_reset = counts.tolist()
        check_within("counts", counts, 0, _MAX_COUNT)
        if not 1 <= since_reset <= frames_seen:
            raise ResumeError(
                f"the saved state is {since_reset} frames after a reset, expected 1 to the "
                f"{frames_seen} that it has seen"
            )
        ids = checked(saved, "track_ids", np.int64, (-1,))
        num_tracks = len(ids)
        check_within("track_ids", ids, 0, next_id)
        if len(np.unique(ids)) != num_tracks:
            raise ResumeError("the saved track_ids has an id twice")
        slots = self.tracker.slots
        if slots is not None and num_tracks > slots:
            raise ResumeError(f"{num_tracks} tracks were saved, expected {slots} at most")
        last_frames = checked(saved, "track_last_frames", np.int64, (num_tracks,))
        check_within("track_last_frames", last_frames, 0, frames_seen)
        self.tracker.memory = TrackMemory(
            ids,
            checked(saved, "track_queries", np.float32, (num_tracks, memory.queries.shape[1])),
            last_frames,
            checked(saved, "track_scores", np.float32, (num_tracks,)),
        )
        self.tracker.next_id = next_id
        self.frames_seen, self._since_reset = frames_seen, since_reset
        thumbnail = checked(saved, "thumbnail", np.uint8, (-1, -1, 3))
        if thumbnail.shape not in (THUMBNAIL_SHAPE, (0, 0, 3)):
            raise ResumeError(f"the saved thumbnail is {thumbnail.shape}, not {THUMBNAIL_SHAPE}")
        self._cuts.thumbnail = thumbnail if thumbnail.size else None
        self.reset = None
        frame_size = checked(saved, "frame_size", np.int64, (2,))
        check_within("frame_size", frame_size, 1, _MAX_SIDE)
        height, width = frame_size.tolist()
        return height, width

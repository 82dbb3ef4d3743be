"""A whole video through a session into an output folder, and what is said of it afterwards."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpp_deploy.errors import VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.video.draw import draw_tracks
from vpp_deploy.video.results_json import FramesJsonl, ResultsJson, encode_masks
from vpp_deploy.video.source import Frame, VideoSource
from vpp_deploy.video.writer import VideoWriter

_DEFAULT_FPS = 25.0


@dataclass
class RunSummary:
    """What a run saw; complete for the frames that were done, whenever it ended.

    Attributes:
        model, kind, video: what ran on what.
        frames: done.
        tracks: identities seen.
        tracks_by_class: class name to number of tracks, by the class each was given most often.
        tracks_dropped: tracks forgotten because every track slot was taken.
        stage_ms: stage to its samples, one a frame, in frame order; the first frame comes first.
        complete: the video was read to its end (or the end of the range).
        notes: what a reader should know: damage, letterboxing, dropped tracks.
    """

    model: str
    kind: str
    video: str
    frames: int = 0
    tracks_dropped: int = 0
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    complete: bool = False
    notes: list[str] = field(default_factory=list)
    _labels: dict[int, Counter[str]] = field(default_factory=dict)

    @property
    def tracks(self) -> int:
        """Identities seen."""
        return len(self._labels)

    @property
    def tracks_by_class(self) -> dict[str, int]:
        """Class name to number of tracks."""
        return dict(Counter(c.most_common(1)[0][0] for c in self._labels.values()).most_common())

    def add(
        self, result: FrameResult, stage_ms: dict[str, float], classes: tuple[str, ...]
    ) -> None:
        """Counts one frame."""
        self.frames += 1
        self.tracks_dropped += result.tracks_dropped
        for name, value in stage_ms.items():
            self.stage_ms.setdefault(name, []).append(value)
        for track, label in zip(result.tracks.ids, result.tracks.labels, strict=True):
            self._labels.setdefault(int(track), Counter())[classes[label]] += 1

    def latency(self) -> dict[str, dict[str, float]]:
        """Stage to milliseconds: the first frame apart, then p50, p90 and max of the others."""
        table = {}
        for name, samples in self.stage_ms.items():
            later = np.array(samples[1:] or samples)
            table[name] = {
                "first": round(samples[0], 2),
                "p50": round(float(np.percentile(later, 50)), 2),
                "p90": round(float(np.percentile(later, 90)), 2),
                "max": round(float(later.max()), 2),
            }
        return table

    def write(self, path: Path) -> None:
        """Writes the summary as JSON."""
        document = {
            "model": self.model,
            "kind": self.kind,
            "video": self.video,
            "complete": self.complete,
            "frames": self.frames,
            "tracks": self.tracks,
            "tracks_by_class": self.tracks_by_class,
            "tracks_dropped": self.tracks_dropped,
            "latency_ms": self.latency(),
            "notes": self.notes,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def run_video(
    model: OpenedModel,
    session: VideoSession,
    source: VideoSource,
    out: Path,
    *,
    annotate: bool = False,
    on_frame: Callable[[FrameResult], None] = lambda _: None,
) -> RunSummary:
    """Steps `session` through `source`; writes results.json, frames.jsonl and summary.json.

    Whatever ends the run, the files hold every frame that was done.

    Args:
        model: what the session runs.
        session: at its first frame.
        source: opened.
        out: folder; made if missing, results of an earlier run in it are replaced.
        annotate: also write annotated.mp4.
        on_frame: told of every frame done.

    Raises:
        VideoError: the source fails, or the folder cannot be written.
    """
    _make_folder(out)
    summary = RunSummary(model.name, model.kind, source.name)
    plan = session.plan(source.frame_size)
    if not plan.published:
        (height, width), (input_h, input_w) = source.frame_size, session.input_size
        summary.notes.append(
            f"frames of {width}x{height} are letterboxed into {input_w}x{input_h}, which is not "
            "the published preprocessing; export with --like VIDEO for this video"
        )
    try:
        with ExitStack() as stack:
            lines = stack.enter_context(FramesJsonl(out / "frames.jsonl", model.classes))
            results = stack.enter_context(ResultsJson(out / "results.json"))
            video = None
            if annotate:
                fps = source.fps or _DEFAULT_FPS
                video = stack.enter_context(
                    VideoWriter(out / "annotated.mp4", fps, source.frame_size)
                )
            for frame, decode_ms in _timed(source):
                result = session.step(frame)
                rles = encode_masks(result.tracks.masks)
                lines.write(result, rles)
                results.write(result, rles)
                if video is not None:
                    video.write(draw_tracks(frame.rgb, result.tracks, model.classes))
                summary.add(result, {"decode": decode_ms, **result.stage_ms}, model.classes)
                on_frame(result)
        summary.complete = True
    finally:
        summary.notes += _notes(source, summary)
        summary.write(out / "summary.json")
    return summary


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "frames.jsonl", "summary.json", "annotated.mp4"):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise VideoError(
            f"cannot write into {out}: {error.strerror}; choose another --out"
        ) from error


def _timed(source: VideoSource) -> Iterator[tuple[Frame, float]]:
    """Frames with the milliseconds that each took to decode."""
    frames = iter(source)
    while True:
        start = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        yield frame, (time.perf_counter() - start) * 1e3


def _notes(source: VideoSource, summary: RunSummary) -> list[str]:
    notes = []
    if source.truncated:
        notes.append("the video ends early: it is truncated or damaged")
    if source.frames_skipped_corrupt:
        notes.append(f"{source.frames_skipped_corrupt} corrupt packets or images were skipped")
    if source.frames_damaged:
        notes.append(f"{source.frames_damaged} frames were decoded with visible damage")
    if summary.tracks_dropped:
        notes.append(
            f"{summary.tracks_dropped} tracks were forgotten because every track slot was taken; "
            "export with more tracks.slots"
        )
    return notes

"""What a run saw, counted frame by frame, and how long it took."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpp_deploy.results import FrameResult


@dataclass
class RunSummary:
    """Complete for the frames that were done, whenever the run ended.

    Attributes:
        model, kind, video: what ran on what.
        frames: done.
        tracks_dropped: tracks forgotten because every track slot was taken.
        complete: the video was read to its end (or the end of the range).
        notes: what a reader should know: damage, letterboxing, dropped tracks.
    """

    model: str
    kind: str
    video: str
    frames: int = 0
    tracks_dropped: int = 0
    complete: bool = False
    notes: list[str] = field(default_factory=list)
    _stage_ms: dict[str, list[float]] = field(default_factory=dict)
    _labels: dict[int, Counter[str]] = field(default_factory=dict)

    @property
    def tracks(self) -> int:
        """Identities seen."""
        return len(self._labels)

    @property
    def tracks_by_class(self) -> dict[str, int]:
        """Class name to number of tracks, by the class each was given most often."""
        return dict(Counter(c.most_common(1)[0][0] for c in self._labels.values()).most_common())

    def add(self, result: FrameResult, decode_ms: float, classes: tuple[str, ...]) -> None:
        """Counts one frame; `decode_ms` is what reading it took."""
        self.frames += 1
        self.tracks_dropped += result.tracks_dropped
        times = {
            "decode": decode_ms,
            **result.stage_ms,
            "frame without decode": sum(result.stage_ms.values()),
        }
        # A first frame skips a stage: the order is that of the last frame.
        for name, value in times.items():
            samples = self._stage_ms.pop(name, [])
            samples.append(value)
            self._stage_ms[name] = samples
        for track, label in zip(result.tracks.ids, result.tracks.labels, strict=True):
            self._labels.setdefault(int(track), Counter())[classes[label]] += 1

    def latency(self) -> dict[str, dict[str, float | None]]:
        """Stage to milliseconds: the first frame apart, then p50, p90 and max of the others.

        None for the first frame in a stage that it skips.
        """
        table: dict[str, dict[str, float | None]] = {}
        for name, samples in self._stage_ms.items():
            skipped_first = len(samples) < self.frames
            later = np.array(samples if skipped_first or len(samples) == 1 else samples[1:])
            table[name] = {
                "first": None if skipped_first else round(samples[0], 2),
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

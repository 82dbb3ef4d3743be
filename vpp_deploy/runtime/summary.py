"""What a run saw, counted frame by frame, and how long it took."""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vpp_deploy.errors import VideoError
from vpp_deploy.results import FrameResult, majority

_WINDOW = 10_000  # frames that latency is taken over, so that a run of any length needs no more


@dataclass
class RunSummary:
    """Complete for the frames that were done, whenever the run ended.

    Attributes:
        model, kind, video: what ran on what.
        classes: names of the labels.
        frames: done.
        tracks_dropped: tracks forgotten because every track slot was taken.
        ended_by: what ended the run early, None if it reached the end of the video or the range.
        notes: what a reader should know: damage, letterboxing, dropped tracks.
    """

    model: str
    kind: str
    video: str
    classes: tuple[str, ...]
    frames: int = 0
    tracks_dropped: int = 0
    ended_by: str | None = None
    notes: list[str] = field(default_factory=list)
    _first_ms: dict[str, float] = field(default_factory=dict)
    _later_ms: dict[str, deque[float]] = field(default_factory=dict)
    _labels: dict[int, Counter[int]] = field(default_factory=dict)

    @property
    def tracks(self) -> int:
        """Identities seen."""
        return len(self._labels)

    @property
    def tracks_by_class(self) -> dict[str, int]:
        """Class name to number of tracks, by the class each was given most often."""
        tracks = Counter(self.classes[majority(c)] for c in self._labels.values())
        return dict(tracks.most_common())

    def add(self, result: FrameResult, decode_ms: float, output_ms: float) -> None:
        """Counts one frame; `decode_ms` and `output_ms` are what reading and writing it took."""
        self.frames += 1
        self.tracks_dropped += result.tracks_dropped
        times = {
            "decode": decode_ms,
            **result.stage_ms,
            "output": output_ms,
            "resize to tracking": sum(result.stage_ms.values()),
        }
        if self.frames == 1:
            self._first_ms = times
        else:
            for name, value in times.items():
                self._later_ms.setdefault(name, deque(maxlen=_WINDOW)).append(value)
        for track, label in zip(result.tracks.ids, result.tracks.labels, strict=True):
            self._labels.setdefault(int(track), Counter())[int(label)] += 1

    def latency(self) -> dict[str, dict[str, float | None]]:
        """Stage to milliseconds: the first frame apart, then p50, p90 and max of the last 10 000.

        None where there is no such frame, or where a first frame skips the stage.
        """
        table: dict[str, dict[str, float | None]] = {}
        for name in self._later_ms or self._first_ms:
            later = np.array(self._later_ms.get(name, ()))
            table[name] = {
                "first": _rounded(self._first_ms.get(name)),
                "p50": _rounded(np.percentile(later, 50) if later.size else None),
                "p90": _rounded(np.percentile(later, 90) if later.size else None),
                "max": _rounded(later.max() if later.size else None),
            }
        return table

    def write(self, path: Path) -> None:
        """Writes the summary as JSON.

        Raises:
            VideoError: the file cannot be written.
        """
        document = {
            "model": self.model,
            "kind": self.kind,
            "video": self.video,
            "ended_by": self.ended_by,
            "frames": self.frames,
            "tracks": self.tracks,
            "tracks_by_class": self.tracks_by_class,
            "tracks_dropped": self.tracks_dropped,
            "latency_ms": self.latency(),
            "notes": self.notes,
        }
        aside = path.with_name(f"{path.name}.part")
        try:
            aside.write_text(json.dumps(document, indent=1) + "\n")
            aside.replace(path)
        except OSError as error:
            raise VideoError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(float(milliseconds), 2)

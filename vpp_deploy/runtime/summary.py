"""What a run saw of one video, counted frame by frame, and how long it took."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError
from vpp_deploy.files import written_aside
from vpp_deploy.results import FrameResult, majority
from vpp_deploy.video.frames_jsonl import Line

_WINDOW = 10_000  # frames that latency is taken over, so that a run of any length needs no more

WHOLE_FRAME = "resize to tracking"
WHOLE_STEP = "whole step"
"""All that a session does for one frame; for the frames of all streams, where it steps several."""


_MAX_NAMED = 1000  # of the tracks that were dropped


@dataclass(frozen=True)
class RunSummary:
    """What is known of one video when it has ended.

    Attributes:
        model, kind, video: what ran on what.
        streams: that every step of the model steps together.
        choices: of the session: what its results depend on beside the model.
        ended_by: what ended the run early, None if it reached the end of the video or the range.
        frames: done.
        resumed_at: how many of them an earlier run had done.
        resets: why frames in mid-video ran without temporal state, and how many did.
        frames_dropped: of live input, because they had waited for too long.
        reconnects: of live input.
        tracks: identities seen.
        tracks_by_class: class name to number of tracks, by the class each was given most often.
        tracks_dropped: tracks forgotten because every track slot was taken.
        tracks_dropped_ids: the first 1000 of them; frames.jsonl names all.
        latency_ms: stage to milliseconds, see `RunTally.latency`.
        notes: what a reader should know: damage, letterboxing, dropped tracks, idle streams.
    """

    model: str
    kind: str
    video: str
    streams: int
    choices: dict[str, Any]
    ended_by: str | None
    frames: int
    resumed_at: int
    resets: dict[str, int]
    frames_dropped: int
    reconnects: int
    tracks: int
    tracks_by_class: dict[str, int]
    tracks_dropped: int
    tracks_dropped_ids: list[int]
    latency_ms: dict[str, dict[str, float | None]]
    notes: list[str]

    def write(self, path: Path) -> None:
        """Writes the summary as JSON.

        Raises:
            VideoError: the file cannot be written.
        """
        try:
            with written_aside(path) as aside:
                aside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        except OSError as error:
            raise VideoError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error


class _Window:
    """The last values of a stage, in as much memory as they will ever take."""

    def __init__(self) -> None:
        self._values = np.full(_WINDOW, np.nan, np.float32)
        self._count = 0

    def add(self, value: float) -> None:
        self._values[self._count % _WINDOW] = value
        self._count += 1

    @property
    def values(self) -> NDArray[np.float32]:
        return self._values[: self._count]


class RunTally:
    """Counts the frames of one video; complete for those that were done, whenever it is asked.

    Attributes:
        frames: done.
        resumed_at: how many of them an earlier run had done.
        resets: why frames in mid-video ran without temporal state, and how many did.
        tracks_dropped: tracks forgotten because every track slot was taken.
        tracks_dropped_ids: the first 1000 of them.
    """

    def __init__(self, classes: Sequence[str], streams: int) -> None:
        """Starts at no frame; `streams` are stepped together."""
        self.frames = 0
        self.resumed_at = 0
        self.resets: Counter[str] = Counter()
        self.tracks_dropped = 0
        self.tracks_dropped_ids: list[int] = []
        self._classes = classes
        self._streams = streams
        self._first_ms: dict[str, float] = {}
        self._later_ms: dict[str, _Window] = {}
        self._labels: dict[int, Counter[int]] = {}  # of the tracks that may be seen again
        self._ended: Counter[int] = Counter()  # class to number of tracks that will not be

    @property
    def tracks(self) -> int:
        """Identities seen."""
        return len(self._labels) + self._ended.total()

    def tracks_by_class(self) -> dict[str, int]:
        """Class name to number of tracks, by the class each was given most often."""
        labels = self._ended + Counter(majority(c) for c in self._labels.values())
        ranked = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
        return {self._classes[label]: number for label, number in ranked}

    def add(self, result: FrameResult, decode_ms: float, step_ms: float, output_ms: float) -> None:
        """Counts one frame.

        Args:
            result: of the frame.
            decode_ms: what reading it took.
            step_ms: what the step took that it was part of, for all streams.
            output_ms: what writing its results took.
        """
        tracks = result.tracks
        seen = zip(tracks.ids.tolist(), tracks.labels.tolist(), strict=True)
        self._count(seen, result.alive.tolist(), result.tracks_dropped, result.reset)
        times = {"decode": decode_ms, **result.stage_ms, "output": output_ms}
        if self._streams == 1:
            times[WHOLE_FRAME] = sum(result.stage_ms.values())
        else:
            times[WHOLE_STEP] = step_ms
        if self.frames == self.resumed_at + 1:
            self._first_ms = times
        else:
            for name, value in times.items():
                self._later_ms.setdefault(name, _Window()).add(value)

    def recount(self, line: Line) -> None:
        """Counts a frame that an earlier run did, from its line in frames.jsonl."""
        seen = [(track["id"], track["label"]) for track in line["tracks"]]
        self._count(seen, line["alive"], line["tracks_dropped"], line["reset"])
        self.resumed_at += 1

    def _count(
        self,
        seen: Iterable[tuple[int, int]],
        alive: Sequence[int],
        dropped: Sequence[int],
        reset: str | None,
    ) -> None:
        self.frames += 1
        if reset is not None and self.frames > 1:
            self.resets[reset] += 1
        self.tracks_dropped += len(dropped)
        self.tracks_dropped_ids += dropped[: _MAX_NAMED - len(self.tracks_dropped_ids)]
        for track, label in seen:
            self._labels.setdefault(track, Counter())[label] += 1
        for track in self._labels.keys() - set(alive):
            self._ended[majority(self._labels.pop(track))] += 1

    def latency(self) -> dict[str, dict[str, float | None]]:
        """Stage to milliseconds: the first frame apart, then p50, p90 and max of the last 10 000.

        Of what this run did, not what an earlier one had done. None where there is no such frame,
        or where a first frame skips the stage. Where several streams are stepped together, what is
        done for all at once (resizing, uploading and the pipeline's stages) and the whole step are
        times of the step.
        """
        table: dict[str, dict[str, float | None]] = {}
        for name in self._later_ms or self._first_ms:
            later = self._later_ms[name].values if name in self._later_ms else _Window().values
            table[name] = {
                "first": _rounded(self._first_ms.get(name)),
                "p50": _rounded(float(np.percentile(later, 50)) if later.size else None),
                "p90": _rounded(float(np.percentile(later, 90)) if later.size else None),
                "max": _rounded(float(later.max()) if later.size else None),
            }
        return table


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(float(milliseconds), 2)

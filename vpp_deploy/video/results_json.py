"""Results as text: one JSON line a frame for people and programs, YouTube-VIS for scoring.

Both sinks share the run-length encodings that `encode_masks` makes once a frame:

    with FramesJsonl("frames.jsonl", classes) as lines, ResultsJson("results.json") as whole:
        for result in results:
            rles = encode_masks(result.tracks.masks)
            lines.write(result, rles)
            whole.write(result, rles)
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from vpp_deploy.errors import VideoError
from vpp_deploy.results import FrameResult, majority
from vpp_deploy.video.closing import Closing

VIDEO_ID = 1


class Rle(TypedDict):
    """A mask in COCO's compressed run-length encoding, runs down the columns.

    size is [height, width] in pixels.
    """

    size: list[int]
    counts: str


def encode_masks(masks: NDArray[np.bool_]) -> list[Rle]:
    """Encode the masks of one frame, (n, H, W) bool, as n run-length encodings.

    pycocotools reads masks column by column; cv2's transpose brings them into that order three
    times faster than numpy's.
    """
    rles = []
    for mask in masks:
        rle = coco_mask.encode(cv2.transpose(mask.view(np.uint8)).T)
        rles.append(Rle(size=rle["size"], counts=rle["counts"].decode("ascii")))
    return rles


class FramesJsonl(Closing):
    """Writes one JSON line a frame, at once, so that a run can be followed and may be cut off.

    A line holds index, time_s, first, stage_ms, tracks_dropped and tracks: a list of {id, label
    (index from 0), class (its name), score, box ([x1, y1, x2, y2], exclusive), area (pixels), rle}.

    Raises:
        VideoError: the file cannot be written.
    """

    def __init__(self, path: str | Path, classes: Sequence[str]) -> None:
        self.path = Path(path)
        self._classes = classes
        self._file = _open_for_writing(self.path)

    def write(self, result: FrameResult, rles: Sequence[Rle]) -> None:
        """Append one frame; `rles` are `encode_masks(result.tracks.masks)`."""
        tracks = result.tracks
        areas = coco_mask.area(rles) if rles else []
        line = {
            "index": result.index,
            "time_s": None if result.time_s is None else round(result.time_s, 6),
            "first": result.first,
            "stage_ms": {stage: round(ms, 3) for stage, ms in result.stage_ms.items()},
            "tracks_dropped": result.tracks_dropped,
            "tracks": [
                {
                    "id": int(tracks.ids[i]),
                    "label": int(tracks.labels[i]),
                    "class": self._classes[tracks.labels[i]],
                    "score": round(float(tracks.scores[i]), 6),
                    "box": [round(float(edge), 2) for edge in tracks.boxes[i]],
                    "area": int(areas[i]),
                    "rle": rles[i],
                }
                for i in range(len(tracks))
            ],
        }
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise _write_error(self.path, error) from error

    def close(self) -> None:
        """Close the file; every frame written is in it already."""
        self._file.close()


@dataclass
class _TrackHistory:
    """What YouTube-VIS needs of one track; the only thing that grows with a video's length."""

    score_sum: float = 0.0
    labels: Counter[int] = field(default_factory=Counter)
    rles: dict[int, Rle] = field(default_factory=dict)  # by frame, from 0, in the processed range

    def entry(self, num_frames: int) -> dict[str, object]:
        return {
            "video_id": VIDEO_ID,
            "score": self.score_sum / len(self.rles),
            "category_id": majority(self.labels) + 1,
            "segmentations": [self.rles.get(frame) for frame in range(num_frames)],
        }


class ResultsJson(Closing):
    """Collects a video's tracks and writes them in the YouTube-VIS result format (MODEL.md 5).

    The file is a list with one entry a track: mean of its scores, the class given most often (ties:
    smallest; ids from 1), and one run-length encoding or null for each processed frame. It appears
    under its name when complete: at `close`, also if the run ends by an error or Ctrl-C.

    Raises:
        VideoError: the file cannot be written. An unwritable place is found out at the start.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._tracks: dict[int, _TrackHistory] = {}
        self._num_frames = 0
        self._temporary = self.path.with_name(self.path.name + ".part")
        self._file = _open_for_writing(self._temporary)

    def write(self, result: FrameResult, rles: Sequence[Rle]) -> None:
        """Add one frame; `rles` are `encode_masks(result.tracks.masks)`."""
        tracks = result.tracks
        for i, rle in enumerate(rles):
            history = self._tracks.setdefault(int(tracks.ids[i]), _TrackHistory())
            history.score_sum += float(tracks.scores[i])
            history.labels[int(tracks.labels[i])] += 1
            history.rles[self._num_frames] = rle
        self._num_frames += 1

    def close(self) -> None:
        """Write what was collected; closing twice is allowed."""
        if self._file.closed:
            return
        try:
            with self._file as file:
                # Track by track: the lists with their nulls are much larger than what they hold.
                separator = "["
                for _, history in sorted(self._tracks.items()):
                    file.write(separator + json.dumps(history.entry(self._num_frames)))
                    separator = ",\n"
                file.write("]\n" if self._tracks else "[]\n")
            self._temporary.replace(self.path)
        except OSError as error:
            raise _write_error(self.path, error) from error


def _open_for_writing(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> VideoError:
    return VideoError(
        f"{path} cannot be written ({error.strerror}); check that its folder exists, is writable "
        "and has space"
    )

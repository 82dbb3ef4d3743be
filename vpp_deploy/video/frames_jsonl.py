"""frames.jsonl: one JSON line a frame, the record of a run that everything else is made from.

A line is written when its frame is done, so a run can be followed, and what a killed one leaves is
whole but for its last line.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vpp_deploy.errors import ResumeError, VideoError
from vpp_deploy.results import FrameResult, TokenMap, Tracks
from vpp_deploy.video.closing import Closing


class Rle(TypedDict):
    """A mask in COCO's compressed run-length encoding, runs down the columns.

    size is [height, width] in pixels.
    """

    size: tuple[int, int]
    counts: str


class TrackEntry(TypedDict):
    """One track of a line."""

    id: int
    label: int
    score: float
    box: tuple[float, float, float, float]
    rle: Rle


class TokensEntry(TypedDict):
    """The token map of a line."""

    grid: tuple[int, int]
    resized: tuple[int, int]
    depth: str


class Line(TypedDict):
    """What is read of a line; `FramesJsonl` says what is in it."""

    index: int
    reset: str | None
    tracks_dropped: list[int]
    alive: list[int]
    tracks: list[TrackEntry]
    tokens: NotRequired[TokensEntry]


_LINE = TypeAdapter(Line)
_BLOCK_BYTES = 1 << 20


def encode_masks(masks: NDArray[np.bool_]) -> list[Rle]:
    """Encode the masks of one frame, (n, H, W) bool, as n run-length encodings.

    pycocotools reads masks column by column; cv2's transpose brings them into that order three
    times faster than numpy's.
    """
    rles = []
    for mask in masks:
        rle = coco_mask.encode(cv2.transpose(mask.view(np.uint8)).T)
        rles.append(Rle(size=(mask.shape[0], mask.shape[1]), counts=rle["counts"].decode("ascii")))
    return rles


@dataclass(frozen=True)
class Extent:
    """How far a file has lines that are done.

    Attributes:
        size: bytes.
        sha256: of these bytes.
    """

    size: Annotated[int, Field(gt=0)]
    sha256: str


class FramesJsonl(Closing):
    """Writes the lines.

    A line holds index, time_s, first, reset (why the frame ran without temporal state, or null),
    stage_ms, tracks_dropped (ids), alive (ids that later frames may give again), tracks: a list of
    {id, label (index from 0), class (its name), score, box ([x1, y1, x2, y2], exclusive), area
    (pixels), rle}, and where they were asked for, tokens: {grid ([rows, columns]), resized
    ([height, width]), depth (a digit for each patch, row by row)}, see `TokenMap`.

    Attributes:
        path: the file.

    Raises:
        VideoError: the file cannot be written.
        ResumeError: it does not begin with the lines that are to be gone on from.
    """

    def __init__(self, path: Path, classes: Sequence[str], kept: Extent | None = None) -> None:
        """Keeps these lines of the file, and goes on from there; None: begins it anew."""
        self.path = path
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._classes = classes
        try:
            # Unbuffered: what is refused must not be tried again when the file is closed.
            self._file = path.open("r+b" if kept else "wb", buffering=0)
        except OSError as error:
            raise _write_error(path, error) from error
        try:
            if kept is not None:
                self._keep(kept)
        except OSError as error:
            self._file.close()
            raise _write_error(path, error) from error
        except ResumeError:
            self._file.close()
            raise

    @property
    def extent(self) -> Extent:
        """The lines that are written; there is one at least."""
        return Extent(self._size, self._sha256.hexdigest())

    def _keep(self, kept: Extent) -> None:
        while self._size < kept.size:
            block = self._file.read(min(_BLOCK_BYTES, kept.size - self._size))
            if not block:
                break
            self._size += len(block)
            self._sha256.update(block)
        if self.extent != kept:
            raise ResumeError(f"{self.path} is not as the run left it")
        self._file.truncate()

    def write(self, result: FrameResult) -> None:
        """Append one frame; what cannot be written whole is taken back."""
        line = json.dumps(self._line(result)).encode() + b"\n"
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with suppress(OSError):  # then its reader leaves the rest of a line out
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise _write_error(self.path, error) from error
        self._size += len(line)
        self._sha256.update(line)

    def close(self) -> None:
        """Close the file; every frame written is in it already."""
        self._file.close()

    def _line(self, result: FrameResult) -> dict[str, Any]:
        tracks = result.tracks
        rles = encode_masks(tracks.masks)
        areas = coco_mask.area(rles) if rles else []
        line: dict[str, Any] = {
            "index": result.index,
            "time_s": None if result.time_s is None else round(result.time_s, 6),
            "first": result.first,
            "reset": result.reset,
            "stage_ms": {stage: round(ms, 3) for stage, ms in result.stage_ms.items()},
            "tracks_dropped": list(result.tracks_dropped),
            "alive": result.alive.tolist(),
            "tracks": [
                {
                    "id": int(tracks.ids[i]),
                    "label": int(tracks.labels[i]),
                    "class": self._classes[tracks.labels[i]],
                    # The shortest decimal that is this float32.
                    "score": float(str(tracks.scores[i])),
                    "box": [round(float(edge), 2) for edge in tracks.boxes[i]],
                    "area": int(areas[i]),
                    "rle": rles[i],
                }
                for i in range(len(tracks))
            ],
        }
        if result.tokens is not None:
            depth = result.tokens.depth
            line["tokens"] = {
                "grid": list(depth.shape),
                "resized": list(result.tokens.resized),
                "depth": "".join(map(str, depth.ravel().tolist())),
            }
        return line


def read_frames(path: Path) -> Iterator[Line]:
    """The lines of a file, one at a time; a last line that was not finished is left out.

    Raises:
        ResumeError: the file cannot be read, or a line is not as it was written.
    """
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.endswith(b"\n"):
                    yield _parsed(path, number, text)
    except OSError as error:
        raise ResumeError(f"{path} cannot be read ({error.strerror})") from error


def _parsed(path: Path, number: int, text: bytes) -> Line:
    try:
        return _LINE.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResumeError(f"{path}: line {number} is damaged ({where}: {first['msg']})") from error


def tracks_of(line: Line) -> Tracks:
    """The tracks of a line, as they were when it was written, but for their queries."""
    entries = line["tracks"]
    num = len(entries)
    masks = [_decode(entry["rle"]) for entry in entries]
    return Tracks(
        np.array([entry["id"] for entry in entries], np.int64),
        np.array([entry["label"] for entry in entries], np.int64),
        np.array([entry["score"] for entry in entries], np.float32),
        np.array([entry["box"] for entry in entries], np.float32).reshape(num, 4),
        np.stack(masks) if masks else np.zeros((0, 0, 0), np.bool_),
        np.full(num, -1, np.int64),
    )


def tokens_of(line: Line) -> TokenMap | None:
    """The token map of a line, None where it has none."""
    tokens = line.get("tokens")
    if tokens is None:
        return None
    depth = np.frombuffer(tokens["depth"].encode(), np.uint8) - ord("0")
    height, width = tokens["resized"]
    return TokenMap(depth.reshape(tokens["grid"]), (height, width))


def _decode(rle: Rle) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        # pycocotools 2.0.11 under NumPy 2; remove when it knows the copy keyword of __array__.
        warnings.simplefilter("ignore", DeprecationWarning)
        decoded: NDArray[np.bool_] = coco_mask.decode(rle).astype(np.bool_)
    return decoded


def _write_error(path: Path, error: OSError) -> VideoError:
    return VideoError(
        f"{path} cannot be written ({error.strerror}); check that its folder exists, is writable "
        "and has space"
    )

"""state.npz: what a run needs to go on from the last frame that it did."""

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vpp_deploy.errors import ResumeError, VideoError
from vpp_deploy.files import written_aside
from vpp_deploy.runtime.snapshots import Snapshot
from vpp_deploy.video.frames_jsonl import Extent
from vpp_deploy.video.image_folder import image_files

STATE_NAME = "state.npz"

_RUN = "run"
_SAMPLE_BYTES = 1 << 16
_IMAGE_SAMPLE_BYTES = 1 << 12
_SAVING_SHARE = 0.02


@dataclass(frozen=True)
class RunIdentity:
    """What must be the same for a run to go on as if it had never stopped.

    Attributes:
        model: hash of the bundle's manifest, or of the checkpoint.
        computed_by: kind of model and who computes it.
        video: `fingerprint` of it.
        start, stride: of the frames.
        exploration, scene_cuts, refresh_every, tokens: of the session.
    """

    model: str
    computed_by: str
    video: str
    start: int
    stride: int
    exploration: str
    scene_cuts: bool
    refresh_every: int | None
    tokens: bool


_HASHES = ("model", "video")


@dataclass(frozen=True)
class SavedRun:
    """A run between two frames.

    Attributes:
        identity: of the run.
        index: of the last frame that was done, in its source.
        lines: of frames.jsonl, that frame's being the last.
        stream: what the session's stream carries.
    """

    identity: RunIdentity
    index: int
    lines: Extent
    stream: Snapshot

    def write(self, folder: Path) -> None:
        """Writes `folder/state.npz`, all at once.

        Raises:
            OSError: it cannot be written; what was there before is still there.
        """
        about = {
            "schema": 2,
            "identity": asdict(self.identity),
            "index": self.index,
            "lines": asdict(self.lines),
        }
        with written_aside(folder / STATE_NAME) as aside, aside.open("wb") as file:
            # The stubs take every array for the flag `allow_pickle`.
            np.savez(file, **{_RUN: np.array(json.dumps(about)), **self.stream})  # type: ignore[arg-type]

    def check(self, identity: RunIdentity) -> None:
        """Compares with what the run would be now.

        Raises:
            ResumeError: it would be another run.
        """
        saved, now = asdict(self.identity), asdict(identity)
        others = [
            f"another {name.replace('_', ' ')}"
            + ("" if name in _HASHES else f" ({saved[name]}, not {now[name]})")
            for name in now
            if saved[name] != now[name]
        ]
        if others:
            raise ResumeError(
                f"the run to be resumed had {', '.join(others)}; give what it was given"
            )


def read_saved(folder: Path) -> SavedRun:
    """The state that a run left in its folder.

    Raises:
        ResumeError: there is none, or it is damaged or of another version.
    """
    path = folder / STATE_NAME
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file.items())
        about = _ABOUT.validate_json(str(arrays.pop(_RUN)), strict=True)
    except FileNotFoundError as error:
        raise ResumeError(
            f"{folder} holds results of an earlier run, but no {STATE_NAME} to go on from; keep "
            "them elsewhere if they are needed"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its description"
        raise ResumeError(
            f"{path} is damaged, or of another version ({where}: {first['msg']})"
        ) from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        MemoryError,
        OverflowError,
        RuntimeError,  # encrypted, or nested without end
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ResumeError(f"{path} is damaged ({error})") from error
    return SavedRun(about["identity"], about["index"], about["lines"], arrays)


class _About(TypedDict):
    schema: Literal[2]
    identity: RunIdentity
    index: Annotated[int, Field(ge=0)]
    lines: Extent


_ABOUT = TypeAdapter(_About)


class StateKeeper:
    """Saves the state of a run as often as that takes no more than a fiftieth of its time.

    On a slow machine that is after every frame; on a fast one a killed process loses some frames'
    work, which is done again.
    """

    def __init__(
        self, folder: Path, identity: RunIdentity, take: Callable[[], dict[str, NDArray[Any]]]
    ) -> None:
        """Saves into `folder` what `take` gives between two frames."""
        self._folder = folder
        self._identity = identity
        self._take = take
        self._due_s = 0.0
        self._unsaved: tuple[int, Extent] | None = None

    def frame_done(self, index: int, lines: Extent) -> None:
        """A frame is done, and its line is the last of these in frames.jsonl.

        Raises:
            VideoError: the state cannot be written.
        """
        self._unsaved = (index, lines)
        if time.perf_counter() >= self._due_s:
            self.save()

    def save(self) -> None:
        """Saves the state if a frame was done since it was saved.

        Raises:
            VideoError: the state cannot be written.
            BackendError: the device fails, or a step has.
        """
        if self._unsaved is None:
            return
        start = time.perf_counter()
        try:
            SavedRun(self._identity, *self._unsaved, self._take()).write(self._folder)
        except OSError as error:
            raise VideoError(
                f"{self._folder / STATE_NAME} cannot be written ({error.strerror}); check that its "
                "folder exists, is writable and has space"
            ) from error
        self._unsaved = None
        now = time.perf_counter()
        self._due_s = now + (now - start) / _SAVING_SHARE


def fingerprint(video: Path) -> str:
    """Tells videos apart without reading all of them, wherever they lie.

    Args:
        video: a file, of which size, beginning, middle and end count, or a folder, of whose images
            names and, less of each, the same count.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    if video.is_dir():
        for image in image_files(video):
            try:
                sample = _sample(image, _IMAGE_SAMPLE_BYTES) if image.is_file() else b""
            except OSError:  # then it is skipped, too
                sample = b""
            digest.update(f"{image.name}/{len(sample)}/".encode(errors="surrogateescape") + sample)
    else:
        digest.update(_sample(video, _SAMPLE_BYTES))
    return digest.hexdigest()


def _sample(path: Path, count: int) -> bytes:
    """The size of a file, and so many bytes of its beginning, its middle and its end."""
    size = path.stat().st_size
    sample = f"{size}/".encode()
    with path.open("rb") as opened:
        for start in (0, (size - count) // 2, size - count):
            opened.seek(max(0, start))
            sample += opened.read(count)
    return sample

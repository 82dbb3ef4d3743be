"""state.npz: what a run needs to go on from the last frame that it did."""

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import ResumeError, VideoError
from vpp_deploy.files import written_aside
from vpp_deploy.runtime.stream import Snapshot
from vpp_deploy.video.image_folder import image_files

STATE_NAME = "state.npz"

_SCHEMA = 1
_RUN = "run"
_SAMPLE_BYTES = 1 << 16
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


@dataclass(frozen=True)
class SavedRun:
    """A run between two frames.

    Attributes:
        identity: of the run.
        index: of the last frame that was done, in its source.
        frames_bytes: of frames.jsonl, when that frame's line was written.
        stream: what the session's stream carries.
    """

    identity: RunIdentity
    index: int
    frames_bytes: int
    stream: Snapshot

    def write(self, folder: Path) -> None:
        """Writes `folder/state.npz`, all at once.

        Raises:
            OSError: it cannot be written; what was there before is still there.
        """
        about = {
            "schema": _SCHEMA,
            "identity": asdict(self.identity),
            "index": self.index,
            "frames_bytes": self.frames_bytes,
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
        others = [name.replace("_", " ") for name in now if saved[name] != now[name]]
        if others:
            raise ResumeError(
                f"the run to be resumed had another {', another '.join(others)}; give what it was "
                "given"
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
        about: dict[str, Any] = json.loads(str(arrays.pop(_RUN)))
        if about["schema"] != _SCHEMA:
            raise ValueError(f"schema {about['schema']}, this version reads {_SCHEMA}")
        identity = RunIdentity(**about["identity"])
        index, size = int(about["index"]), int(about["frames_bytes"])
    except FileNotFoundError as error:
        raise ResumeError(f"{folder} holds no {STATE_NAME}") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        MemoryError,
        RecursionError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ResumeError(f"{path} is damaged ({error})") from error
    return SavedRun(identity, index, size, arrays)


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
        self._unsaved: tuple[int, int] | None = None

    def frame_done(self, index: int, frames_bytes: int) -> None:
        """A frame is done, and its line in frames.jsonl written.

        Raises:
            VideoError: the state cannot be written.
        """
        self._unsaved = (index, frames_bytes)
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
        video: a file, of which size, beginning and end count, or a folder, of whose images names
            and sizes count.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    if video.is_dir():
        for image in image_files(video):
            size = image.stat().st_size if image.exists() else None
            digest.update(f"{image.name}/{size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()
    size = video.stat().st_size
    with video.open("rb") as opened:
        digest.update(str(size).encode())
        digest.update(opened.read(_SAMPLE_BYTES))
        opened.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(opened.read())
    return digest.hexdigest()

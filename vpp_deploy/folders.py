"""Folders that appear all at once: written aside, renamed when complete."""

import itertools
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from vpp_deploy.errors import ExportError, VppDeployError
from vpp_deploy.manifests import MANIFEST_NAME, MAX_MANIFEST_BYTES

_STAGING = "bundle"
_REPLACED = "replaced"
_LOCK = re.compile(r"\.(.+)\.[0-9a-f]{8}\.lock")


@contextmanager
def staged_folder(folder: Path, failure: type[VppDeployError] = ExportError) -> Iterator[Path]:
    """Yields a folder to write into, which becomes `folder` when the block ends without an error.

    A bundle, or an engine's folder, that is there already is replaced, and put back if its
    successor cannot be; of several processes that write the same one, the last stays. A process
    that is killed leaves a hidden folder beside `folder`, which nothing takes for a bundle, and
    which the next call for a folder there removes.

    Args:
        folder: what is to appear.
        failure: the error to raise.

    Raises:
        VppDeployError: as `failure`: `folder` holds something else than a bundle, or cannot be
            written.
    """
    folder = folder.resolve()
    try:
        _check_replaceable(folder, failure)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        with _aside(folder) as aside:
            staging = aside / _STAGING
            staging.mkdir()
            yield staging
            _publish(staging, folder, failure)
    except OSError as error:
        raise failure(
            f"cannot write {folder}: {error.strerror or error}; choose another folder with --out"
        ) from error


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, and a lock that tells others that its owner lives."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    lock = Path(f"{aside}.lock")
    with FileLock(lock, timeout=10):
        try:
            aside.mkdir()
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if not aside.exists():
                lock.unlink(missing_ok=True)


def _remove_leftovers(parent: Path) -> None:
    """Removes what killed processes left in `parent`; what they were replacing is put back."""
    for path in parent.glob(".*.lock"):
        match = _LOCK.fullmatch(path.name)
        if match is None:
            continue
        try:
            with FileLock(path, timeout=0):
                aside = path.with_suffix("")
                for replaced in aside.glob(f"{_REPLACED}*"):
                    if not (parent / match[1]).exists():
                        replaced.rename(parent / match[1])
                shutil.rmtree(aside, ignore_errors=True)
                path.unlink(missing_ok=True)
        except OSError:  # filelock.Timeout, too: its owner lives
            continue


def _check_replaceable(folder: Path, failure: type[VppDeployError]) -> None:
    if not folder.exists():
        return
    if folder == Path.cwd():
        raise failure(f"{folder} is the current folder; choose another with --out")
    if not folder.is_dir():
        raise failure(f"{folder} is a file; choose a folder with --out")
    others = {path.name for path in folder.iterdir()} - _bundle_files(folder)
    if others:
        raise failure(
            f"{folder} holds more than a bundle ({min(others)}, ...), and would be replaced; "
            "choose another folder with --out"
        )


def is_bundle(folder: Path) -> bool:
    """Whether the folder has the manifest of a bundle or an engine."""
    return bool(_bundle_files(folder))


def _bundle_files(folder: Path) -> set[str]:
    """What a bundle's manifest says is in its folder; nothing where there is no such manifest."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            document = json.loads(file.read(MAX_MANIFEST_BYTES))
        if isinstance(document["schema"], int):
            return {MANIFEST_NAME, *document["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return set()


def _publish(staging: Path, folder: Path, failure: type[VppDeployError]) -> None:
    for attempt in itertools.count():
        if _renamed(staging, folder):
            return
        replaced = staging.with_name(f"{_REPLACED}{attempt}")
        if not _renamed(folder, replaced):
            continue  # another process is replacing it
        try:
            # Minutes have passed since the first look, and now nobody else can reach the folder.
            _check_replaceable(replaced, failure)
            if _renamed(staging, folder):
                return
        except (OSError, VppDeployError):
            _renamed(replaced, folder)
            raise


def _renamed(source: Path, target: Path) -> bool:
    """Renames; False where somebody has taken `source` away, or has put something at `target`."""
    try:
        source.rename(target)
    except OSError:
        if source.exists() and not target.exists():
            raise
        return False
    return True

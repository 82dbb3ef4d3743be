"""Folders that appear all at once: written aside, renamed when complete."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpp_deploy.errors import ExportError, VppDeployError
from vpp_deploy.manifests import MANIFEST_NAME


@contextmanager
def staged_folder(folder: Path, failure: type[VppDeployError] = ExportError) -> Iterator[Path]:
    """Yields a folder to write into, which becomes `folder` when the block ends without an error.

    A bundle, or an engine's folder, that is there already is replaced, and put back if its
    successor cannot be. A process that is killed leaves a hidden folder beside `folder`, which
    nothing takes for a bundle.

    Args:
        folder: what is to appear.
        failure: the error to raise.

    Raises:
        VppDeployError: as `failure`: `folder` holds something else than a bundle, or cannot be
            written.
    """
    folder = folder.resolve()
    _check_replaceable(folder, failure)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
            staging = Path(aside) / "bundle"
            staging.mkdir()
            yield staging
            _publish(staging, folder, failure)
    except OSError as error:
        raise failure(
            f"cannot write {folder}: {error.strerror or error}; choose another folder with --out"
        ) from error


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


def _bundle_files(folder: Path) -> set[str]:
    """What a bundle's manifest says is in its folder; nothing where there is no such manifest."""
    try:
        document = json.loads((folder / MANIFEST_NAME).read_text())
        if isinstance(document["schema"], int):
            return {MANIFEST_NAME, *document["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return set()


def _publish(staging: Path, folder: Path, failure: type[VppDeployError]) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    replaced = staging.with_name("replaced")
    folder.rename(replaced)
    try:
        # Minutes have passed since the first look, and now nobody else can reach the folder.
        _check_replaceable(replaced, failure)
        staging.rename(folder)
    except (OSError, VppDeployError):
        replaced.rename(folder)
        raise

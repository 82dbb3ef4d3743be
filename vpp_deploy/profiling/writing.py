"""Files that appear when they are complete, and not at all before."""

import tempfile
from pathlib import Path

from vpp_deploy.errors import ProfileError


def check_writable(path: Path) -> None:
    """Finds out before an hour of measuring whether the file can be written after it.

    Raises:
        ProfileError: it cannot.
    """
    if path.is_dir():
        raise ProfileError(f"{path} is a folder; name a file")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ProfileError(
            f"cannot write {path}: {error.strerror}; name a file in a folder that exists and can "
            "be written"
        ) from error


def write_aside(path: Path, text: str) -> None:
    """Writes `text` to `path`, in one go for whoever looks there.

    Raises:
        ProfileError: the file cannot be written; what was there before is there still.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            aside = Path(folder) / path.name
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
    except OSError as error:
        raise ProfileError(f"cannot write {path}: {error.strerror}; name another file") from error

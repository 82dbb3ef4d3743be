"""Files that appear when they are complete, and not at all before."""

import tempfile
from pathlib import Path

from vpp_deploy.errors import ProfileError


def check_writable(path: Path) -> None:
    """Finds out before an hour of measuring whether the file can be written after it.

    Raises:
        ProfileError: it cannot.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "no regular file"
        raise ProfileError(f"{path} is {kind}; name a file")
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):
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
    target = path.resolve()  # a link stays, what it leads to is replaced
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            aside = Path(folder) / target.name
            aside.write_text(text, encoding="utf-8")
            aside.replace(target)
    except OSError as error:
        raise ProfileError(f"cannot write {path}: {error.strerror}; name another file") from error

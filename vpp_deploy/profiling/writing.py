"""The files that a user names for a report: found out early, written all at once."""

import tempfile
from pathlib import Path

from vpp_deploy.errors import ProfileError
from vpp_deploy.files import written_aside


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
        with written_aside(target) as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"cannot write {path}: {error.strerror}; name another file") from error

"""Files that appear when they are complete, and not at all before."""

from pathlib import Path

from vpp_deploy.errors import ProfileError


def check_writable(path: Path) -> None:
    """Finds out before an hour of measuring whether the file can be written after it.

    Raises:
        ProfileError: it cannot.
    """
    if path.is_dir():
        raise ProfileError(f"{path} is a folder; name a file")
    aside = _aside(path)
    try:
        aside.touch()
        aside.unlink()
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
    aside = _aside(path)
    try:
        try:
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ProfileError(f"cannot write {path}: {error.strerror}; name another file") from error


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")

"""Files that appear all at once: written aside, renamed when complete."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which becomes `path` when the block ends without an exception.

    Whatever else ends it, an interruption too, what was written is removed, and `path` is as it
    was. For folders of our own, where nothing else is called `path` with `.part`, and one process
    at a time writes.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise

"""What a benchmark that cannot go on says: one line, and exit code 1, as the commands do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from vpp_deploy.errors import VppDeployError


@contextmanager
def in_one_line() -> Iterator[None]:
    """Of the toolkit's own errors and the system's (a file that is not there, a full disk)."""
    try:
        yield
    except (VppDeployError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error

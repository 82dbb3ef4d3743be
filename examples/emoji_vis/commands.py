"""How the example's commands begin and end: arguments that fit, and one line for what does not."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from vpp_deploy.cli.arguments import parse_frame_size
from vpp_deploy.cli.signals import check_signals, exit_on_signals
from vpp_deploy.errors import VppDeployError, printable

_SIDES = range(32, 4097)
_MAX_ASPECT = 4.0


@contextmanager
def command() -> Iterator[None]:
    """Within it, what a user can mend ends in one line and exit code 1, a signal in 128 + it."""
    exit_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except ModuleNotFoundError as error:
        _fail(f"{error}; install vpp-deploy[train]")
    except (VppDeployError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    check_signals()
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(1)


def threads(text: str) -> int:
    """An argument: 1 to 256, as the project's commands have it."""
    return _whole(text, 1, 256)


def seed(text: str) -> int:
    """An argument: 0 or more."""
    return _whole(text, 0)


def _whole(text: str, least: int, most: int = 999_999_999) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
    return number


def check_rate(fps: float) -> float:
    """Frames a second, as given.

    Raises:
        typer.BadParameter: there is no such rate.
    """
    if not 0.01 <= fps <= 1000:
        raise typer.BadParameter(f"{fps} is no rate from 0.01 to 1000")
    return fps


def frame_size(text: str) -> tuple[int, int]:
    """`HxW` in pixels, such that emoji have room in it.

    Raises:
        typer.BadParameter: another form, or such a size has no room.
    """
    height, width = parse_frame_size(text)
    long, short = max(height, width), min(height, width)
    if height not in _SIDES or width not in _SIDES or long > _MAX_ASPECT * short:
        raise typer.BadParameter(
            f"{text} does not fit; sides are {_SIDES[0]} to {_SIDES[-1]} pixels, and none is more "
            f"than {_MAX_ASPECT:g} times the other"
        )
    return height, width

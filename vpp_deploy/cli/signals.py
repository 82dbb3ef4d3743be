"""SIGTERM as an exception, so that files are completed and folders written aside are removed."""

import signal
import sys
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM

_received: list[int] = []


def exit_on_sigterm() -> None:
    """From now on SIGTERM raises SystemExit wherever the program is."""
    signal.signal(signal.SIGTERM, _exit)


def check_sigterm() -> None:
    """Raises SystemExit if SIGTERM came.

    Python discards an exception that a handler raises inside a finaliser, of which PyTorch's
    exporter has many; a long command asks again between its steps.
    """
    if _received:
        sys.exit(EXIT_CODE)


def _exit(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    sys.exit(EXIT_CODE)

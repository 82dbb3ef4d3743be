"""SIGTERM as an exception, so that files are completed and folders written aside are removed."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def held() -> Iterator[None]:
    """Within the block a first SIGINT or SIGTERM waits for its end; a second one does not wait."""
    waiting: list[signal.Signals] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came = signal.Signals(number)
        if waiting:
            handlers[came](number, frame)
        waiting.append(came)

    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):  # not where it is ignored, as in the background of a shell
            handlers[number] = handler
            signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if waiting:
        handlers[waiting[0]](waiting[0], None)


def _exit(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    sys.exit(EXIT_CODE)

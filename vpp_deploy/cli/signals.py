"""Signals as exceptions, so that files are completed and folders written aside are removed."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)

_received: list[int] = []


def exit_on_signals() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) raise wherever the program is.

    SIGINT raises KeyboardInterrupt, the others SystemExit. What the caller has told the process to
    ignore, as `nohup` and the background of a shell do, stays ignored.
    """
    for number in _ENDING:
        if signal.getsignal(number) in _DEFAULT:
            signal.signal(number, _raise)


def check_signals() -> None:
    """Raises SystemExit if one of them came.

    Python discards an exception that a handler raises inside a finaliser, of which PyTorch's
    exporter has many, and compiled modules that are being imported turn it into an ImportError; so
    a long command asks again between its steps, and whoever sees an error asks first.
    """
    if _received:
        sys.exit(128 + _received[0])


@contextmanager
def held() -> Iterator[None]:
    """Within the block a first of these signals waits for its end; a second one does not wait."""
    waiting: list[signal.Signals] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came = signal.Signals(number)
        if waiting:
            handlers[came](number, frame)
        waiting.append(came)

    handlers = {}
    for number in _ENDING:
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


def _raise(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)

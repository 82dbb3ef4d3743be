"""Calls into FFmpeg that may wait for long: for a network, or for who writes into a pipe."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


def interruptible(call: Callable[[], _T]) -> _T:
    """Make a call in a thread, and wait for it.

    FFmpeg waits without looking for Ctrl-C. The thread of a call that was interrupted ends with the
    call, at its own time-out or with the process; what it returns is dropped.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="vpp-deploy waiting", daemon=True).start()
    return future.result()

"""TensorRT's callbacks: its log, and its progress, which can also be told to stop."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[str, int, int], None]
"""Told the name of a phase of a build, the steps that are done, and all of them."""


def new_log(trt: Any) -> Any:
    """An ILogger that prints nothing and keeps errors: `errors`, one line each."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps Python's garbage collector away from a call of the library.

    The library calls its log while it holds a lock that freeing a builder takes, too. A collection
    that begins in the log and finds an old builder would wait for ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def reason(log: Any) -> str:
    """What the library said, each line once."""
    # Without a driver TensorRT for RTX complains of that, too, and builds all the same.
    telling = [line for line in log.errors if "cudaError 35" not in line] or log.errors
    return "; ".join(dict.fromkeys(telling)) or "the library gives no reason"


def new_monitor(trt: Any, report: Report) -> Any:
    """An IProgressMonitor; `stop()` ends the build when the library next asks."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._goes_on = True

        def stop(self) -> None:
            self._goes_on = False
            report("waiting for the library to stop", 0, 1)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return self._goes_on

        def _report(self, phase_name: str, done: int) -> None:
            if self._goes_on:
                report(phase_name, done, self._steps.get(phase_name, done))

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()

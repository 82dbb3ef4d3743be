"""Interruptions between frames: `held` keeps them from coming within one."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from vpp_deploy.cli.signals import check_signals, exit_on_signals, held


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("vpp_deploy.cli.signals._received", [])
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in ending}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    exit_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def hold(*numbers: signal.Signals, done: list[object]) -> None:
    """Raises the signals in a block, one after the other."""
    with held():
        for number in numbers:
            signal.raise_signal(number)
            done.append(number)
        done.append("end of the block")
    done.append("after the block")


@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
    ],
)
def test_the_first_waits_for_the_end(number: signal.Signals, raised: type[BaseException]) -> None:
    done: list[object] = []
    with pytest.raises(raised):
        hold(number, done=done)
    assert done == [number, "end of the block"]


def test_the_second_does_not() -> None:
    done: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        hold(signal.SIGTERM, signal.SIGINT, done=done)
    assert done == [signal.SIGTERM]


def test_without_any_all_is_as_before() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with held():
        pass
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    exit_on_signals()
    with held():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN
    check_signals()


def test_what_was_swallowed_is_told_of_again() -> None:
    check_signals()
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit) as told:
        check_signals()
    assert told.value.code == 130


INTERRUPTED = """
import signal, sys

class Interrupts:  # when this module is imported, as compiled ones answer that
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            try:
                signal.raise_signal(signal.{number})
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
from vpp_deploy.cli.entry import main
sys.argv = ["vpp-deploy", "inspect", "model.pth"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("module", ["typer", "vpp_deploy.cli.main", "torch"])
def test_while_it_loads(module: str, number: str, code: int) -> None:
    program = INTERRUPTED.format(module=module, number=number)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")

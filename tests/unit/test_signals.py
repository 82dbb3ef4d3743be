"""Interruptions between frames: `held` keeps them from coming within one."""

import signal
from collections.abc import Iterator

import pytest

from vpp_deploy.cli.signals import exit_on_sigterm, held


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    exit_on_sigterm()
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
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
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


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

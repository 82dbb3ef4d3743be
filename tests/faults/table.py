"""How many cases ended how, by class of fault."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.faults.judging import Verdict

if TYPE_CHECKING:
    import pytest

FAILED = "failed"
PROPERTY = "fault"
"""Under this name a test that passes tells its case's class and verdict."""


def table(outcomes: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of text from classes and outcomes, the latter a `Verdict`'s name or `FAILED`."""
    counted = Counter(outcomes)
    kinds = list(dict.fromkeys(kind for kind, _ in counted))
    columns = [*Verdict.__members__, FAILED]
    widest = max(map(len, (*kinds, "class of fault")))
    heads = [*(verdict.value for verdict in Verdict), FAILED]

    def line(name: str, numbers: list[int]) -> str:
        widths = map(len, ("cases", *heads))
        cells = "  ".join(f"{n:>{width}}" for n, width in zip(numbers, widths, strict=True))
        return f"{name:<{widest}}  {cells}"

    rows = []
    for kind in sorted(kinds):
        numbers = [counted[kind, column] for column in columns]
        rows.append((kind, [sum(numbers), *numbers]))
    sums = [sum(column) for column in zip(*(numbers for _, numbers in rows), strict=True)]
    return [
        f"{'class of fault':<{widest}}  cases  {'  '.join(heads)}",
        *(line(kind, numbers) for kind, numbers in rows),
        line("all", sums),
    ]


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """pytest's hook: the table of the cases that were tried, whichever process tried them."""
    outcomes = [
        (str(value[0]), str(value[1]))
        for report in terminalreporter.getreports("passed")
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY and report.when == "call"
    ]
    failed = [
        report.nodeid.partition("[")[2].partition("/")[0]
        for outcome in ("failed", "xfailed")
        for report in terminalreporter.getreports(outcome)
        if "::test_fault[" in report.nodeid
    ]
    outcomes += [(kind, FAILED) for kind in failed]
    if outcomes:
        terminalreporter.section("faults")
        for line in table(outcomes):
            terminalreporter.write_line(line)

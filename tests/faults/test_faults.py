"""Every case of the suite, as a test of its own; the table is in pytest's summary."""

from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.faults.judging import Case, Sound, Wrong
from tests.faults.suite import all_cases, known, make_sound, try_case
from tests.faults.table import PROPERTY
from tests.mini import ExportedMini

CASES = all_cases()


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory,
    mini_checkpoint: Path,
    mini_recipe: Path,
    mini_bundle: ExportedMini,
) -> Sound:
    folder = tmp_path_factory.mktemp("faults") / "sound"
    return make_sound(folder, mini_checkpoint, mini_recipe, mini_bundle.folder)


def _parameter(case: Case) -> ParameterSet:
    reason = known(case)
    marks = [] if reason is None else [pytest.mark.xfail(reason=reason, raises=Wrong, strict=True)]
    return pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_fault(
    case: Case, sound: Sound, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    verdict = try_case(case, sound, tmp_path / "case")
    record_property(PROPERTY, [case.kind, verdict.name])


def test_there_are_enough() -> None:
    assert len(CASES) >= 500

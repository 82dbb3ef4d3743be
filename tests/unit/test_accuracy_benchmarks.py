"""What the benchmarks of accuracy compute themselves: budgets of a share, and delays."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import typer

from benchmarks import curve
from benchmarks.evaluations import at_share
from benchmarks.first_seen import first_seen
from tests.unit.evaluation.made_dataset import Boxes, dataset, masks
from vpp_deploy.calibration.budgets import share_kept
from vpp_deploy.errors import DatasetError, RecipeError
from vpp_deploy.recipes import BudgetShares, ExportRecipe, ModelSettings

RECIPE = ExportRecipe(
    192, 320, model=ModelSettings(keep_ratio=0.7), budgets=BudgetShares(0.56, 0.448, 0.358)
)


@pytest.mark.parametrize("kept", [1.0, 0.9, 0.8, 0.542, 0.3, 0.12])
def test_budgets_run_the_share_that_is_asked_for(kept: float) -> None:
    recipe = at_share(RECIPE, kept)
    assert recipe.budgets is not None
    assert recipe.model.keep_ratio is not None
    shares = (recipe.model.keep_ratio, *dataclasses.astuple(recipe.budgets))
    assert share_kept(shares, 1) == pytest.approx(kept, abs=1e-3)
    assert sorted(shares, reverse=True) == list(shares)


def test_trained_budgets_stay() -> None:
    recipe = at_share(RECIPE, share_kept((0.7, 0.56, 0.448, 0.358), 1))
    assert recipe.budgets == RECIPE.budgets
    assert recipe.model.keep_ratio == RECIPE.model.keep_ratio


@pytest.mark.parametrize("kept", [0.08, 1.2])
def test_shares_that_cannot_be(kept: float) -> None:
    with pytest.raises(RecipeError, match="no budgets run"):
        at_share(RECIPE, kept)


def test_how_long_objects_go_unseen(tmp_path: Path) -> None:
    here, there = (2, 2, 8, 8), (2, 10, 8, 15)
    early: Boxes = [here] * 5
    late: Boxes = [None, there, there, there, there]
    never: Boxes = [None, None, here, None, here]
    truth = dataset(
        (5, 5),
        ("dog",),
        [(0, "dog", masks(early)), (0, "dog", masks(late)), (1, "dog", masks(never))],
    )
    found = [
        {"video_id": 7, "segmentations": masks(early)},
        # Of another place at first, then where the object is: found in its third frame.
        {"video_id": 7, "segmentations": masks([None, None, here, there, there])},
        {"video_id": 8, "segmentations": masks([None, None, there, there, None])},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    early_one, *others = truth.instances
    crowd = dataclasses.replace(others[0], is_crowd=True)
    truth = dataclasses.replace(truth, instances=(early_one, *others, crowd))
    seen = first_seen(truth, path)
    assert seen.objects == 2
    assert seen.found == 0.5
    assert seen.frames_unseen == (2 + 2) / 2


def test_without_late_objects_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    truth = dataset((1,), ("dog",), [(0, "dog", masks([(2, 2, 8, 8)]))])
    with pytest.raises(DatasetError, match="every object shows"):
        first_seen(truth, tmp_path / "results.json")


def test_a_mask_of_no_pixel_shows_nothing(tmp_path: Path) -> None:
    here, empty = (2, 2, 8, 8), (0, 0, 0, 0)
    late: Boxes = [empty, here, empty, here, here]
    never: Boxes = [None, empty, empty, None, empty]
    truth = dataset((5,), ("dog",), [(0, "dog", masks(late)), (0, "dog", masks(never))])
    found = [{"video_id": 7, "segmentations": masks([empty, empty, empty, None, here])}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    seen = first_seen(truth, path)
    assert (seen.objects, seen.found, seen.frames_unseen) == (1, 1, 2)


def test_precisions_are_looked_at_before_hours_have_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["curve", __file__, "nowhere", "--recipe", __file__, "--precision", "fp8"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        typer.run(curve.main)
    assert left.value.code == 2
    assert "fp8" in capsys.readouterr().err

"""What the benchmarks of accuracy compute themselves: budgets of a share, and delays."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from benchmarks import curve, exploration
from benchmarks.curve_times import times_of, told
from benchmarks.evaluations import at_share
from benchmarks.first_seen import first_seen
from tests.unit.evaluation.made_dataset import Boxes, dataset, masks
from tests.unit.profiling.made import model, timing
from vpp_deploy.calibration.budgets import share_kept
from vpp_deploy.errors import DatasetError, RecipeError
from vpp_deploy.profiling.samples import Samples
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


def test_times_are_over_those_of_the_first_model() -> None:
    """Of steps of 144, 154 and 164 ms; a first frame is in nothing."""
    other = model("30% int8", (9000, 184, 204, 60))  # steps of 288, 308 and 164 ms
    assert times_of(timing(model("every patch fp32"), other)) == {
        "every patch fp32": (154, 1),
        "30% int8": (288, 2),
    }


@pytest.mark.parametrize(
    ("frames", "length", "line"),
    [
        (60, 16, "56 frames, 15 of them distinct, of street.mp4, looped 3 times; 4 first frames"),
        (5, 16, "4 frames, 4 of them distinct, of street.mp4, looped 0 times; 1 first frames"),
    ],
)
def test_it_is_said_of_which_frames_times_are(frames: int, length: int, line: str) -> None:
    base = model("every patch fp32")
    base.samples = Samples(())
    for number in range(frames):
        base.samples.add(1.0, {}, number % length == 0, {})
    made = timing(base, video="street.mp4")
    made.loops = (frames - 1) // length
    assert told(made) == f"medians of {line} and 3 of warm-up left out"


@pytest.mark.parametrize("command", [curve.main, exploration.main])
def test_two_shares_of_one_label_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Callable[..., None],
) -> None:
    arguments = ["-", __file__, "nowhere", "--recipe", __file__]
    shares = ["--share", "0.4", "--share", "0.5", "--share", "0.50000001"]
    monkeypatch.setattr(sys, "argv", [*arguments, *shares])
    with pytest.raises(SystemExit) as left:
        typer.run(command)
    assert left.value.code == 2
    assert "2 shares are called 50%" in capsys.readouterr().err


def test_precisions_are_looked_at_before_hours_have_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["curve", __file__, "nowhere", "--recipe", __file__, "--precision", "fp8"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        typer.run(curve.main)
    assert left.value.code == 2
    assert "fp8" in capsys.readouterr().err

"""`python -m benchmarks.curve` on bundles that are there; exporting them is tested elsewhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import curve
from tests.mini import CLASSES, INPUT_SIZE, ExportedMini, frames
from tests.unit.evaluation.made_dataset import labels, masks, write_dataset
from vpp_deploy.cli.main import app
from vpp_deploy.manifests import hash_file
from vpp_deploy.recipes import ExportRecipe

RECIPE = Path(__file__).parents[2] / "examples" / "emoji_vis" / "emoji-55.toml"
IMAGES = {"a": [frame.rgb for frame in frames(3)]}


@pytest.fixture
def dataset(tmp_path: Path, mini_bundle: ExportedMini) -> Path:
    """Its truth is what the float32 bundle finds."""
    document = labels(IMAGES, CLASSES, [(0, "dog", masks([(10, 10, 40, 50)] * 3, INPUT_SIZE))])
    folder = write_dataset(tmp_path / "valid", IMAGES, document)
    evaluate(folder, mini_bundle.folder, "--out", str(tmp_path / "found"))
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    document["annotations"] = [{**track, "id": n, "iscrowd": 0} for n, track in enumerate(results)]
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def evaluate(dataset: Path, bundle: Path, *options: str) -> dict[str, float | None]:
    """The figures of the command that users call."""
    command = ["eval", str(bundle), str(dataset), "--threads", "1", "--json", *options]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures: dict[str, float | None] = json.loads(result.stdout)["figures"]
    return figures


def test_points_with_accuracy_operations_and_time(
    tmp_path: Path,
    dataset: Path,
    mini_checkpoint: Path,
    mini_bundle: ExportedMini,
    mini_int8_bundle: ExportedMini,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = {"fp32": mini_bundle.folder, "int8": mini_int8_bundle.folder}
    asked: list[tuple[str, ExportRecipe]] = []

    def bundle_of(checkpoint: Path, recipe: ExportRecipe, precision: str, folder: Path) -> Path:
        assert checkpoint == mini_checkpoint
        asked.append((precision, recipe))
        return Path(shutil.copytree(made[precision], folder, dirs_exist_ok=True))

    monkeypatch.setattr(curve, "bundle_of", bundle_of)
    out = tmp_path / "curve"
    sizes = ("--share", "0.5", "--precision", "int8", "--frames", "3", "--threads", "1")
    arguments = [str(mini_checkpoint), str(dataset), "--recipe", str(RECIPE), *sizes]
    run_curve(arguments, out)
    assert [precision for precision, _ in asked] == ["fp32", "fp32", "int8", "int8"]
    assert [recipe.model.keep_ratio == 1 for _, recipe in asked] == [True, False, True, False]
    document = json.loads((out / "curve.json").read_text())
    points: list[dict[str, Any]] = document["points"]
    assert [point["label"] for point in points] == ["every patch", "50%"] * 2
    assert [point["precision"] for point in points] == ["fp32", "fp32", "int8", "int8"]
    assert points[0]["over_full"] == 1
    assert all(point["over_full"] > 0 and point["gmacs"] > 0 for point in points)
    first, *others = mini_bundle.manifest.budgets
    assert {point["kept"] for point in points} == {(48 + 2 * first + 3 * sum(others)) / (12 * 48)}
    assert all(point["budgets"] == [first, *others] for point in points)
    setting = document["setting"]
    assert setting["checkpoint"] == f"mini.safetensors, SHA-256 {hash_file(mini_checkpoint)}"
    assert setting["recipe"] == f"emoji-55.toml, SHA-256 {hash_file(RECIPE)}"
    assert "dense checkpoint" not in setting
    assert setting["timing"].startswith("medians of 2 frames, 2 of them distinct, of a, 128x96")
    assert (out / "curve.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/evaluated.json")}
    assert len(before) == 4
    run_curve(arguments, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/evaluated.json")}
    assert points[0]["found"]["figures"]["ap"] == 1
    assert points[2]["found"]["figures"] == evaluate(dataset, mini_int8_bundle.folder)


def run_curve(arguments: list[str], out: Path) -> None:
    command = typer.Typer()
    command.command()(curve.main)
    result = CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output

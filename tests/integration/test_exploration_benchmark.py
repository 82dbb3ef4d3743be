"""`python -m benchmarks.exploration` on a bundle that is there; see `test_curve`."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import exploration
from tests.mini import CLASSES, INPUT_SIZE, ExportedMini, frames
from tests.unit.evaluation.made_dataset import labels, masks, write_dataset
from vpp_deploy.evaluation.dataset import read_dataset
from vpp_deploy.evaluation.evaluator import Figures
from vpp_deploy.evaluation.run import evaluate
from vpp_deploy.manifests import hash_file
from vpp_deploy.recipes import ExportRecipe
from vpp_deploy.runtime.exploration import Lattice
from vpp_deploy.runtime.opening import open_bundle

RECIPE = Path(__file__).parents[2] / "examples" / "emoji_vis" / "emoji-55.toml"
IMAGES = {"a": [frame.rgb for frame in frames(3)]}
LATE = masks([None, (10, 10, 40, 50), (10, 10, 40, 50)], INPUT_SIZE)


def figures_of(bundle: Path, dataset: Path, out: Path) -> Figures:
    """Without exploration."""
    model = open_bundle(bundle, threads=1)
    return evaluate(model, model.session(None), read_dataset(dataset), out=out).figures


@pytest.fixture
def dataset(tmp_path: Path, mini_bundle: ExportedMini) -> Path:
    """Its truth: what the bundle finds, from the second frame on; and what it never finds."""
    document = labels(IMAGES, CLASSES, [(0, "dog", LATE)])
    folder = write_dataset(tmp_path / "late", IMAGES, document)
    figures_of(mini_bundle.folder, folder, tmp_path / "found")
    for track in json.loads((tmp_path / "found" / "results.json").read_text()):
        segmentations = [None, *track["segmentations"][1:]]
        document["annotations"].append({**track, "segmentations": segmentations})
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def test_policies_and_reference_tokens(
    tmp_path: Path,
    dataset: Path,
    mini_checkpoint: Path,
    mini_bundle: ExportedMini,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, ExportRecipe] = {}

    def bundle_of(checkpoint: Path, recipe: ExportRecipe, precision: str, folder: Path) -> Path:
        assert (checkpoint, precision) == (mini_checkpoint, "fp32")
        asked[folder.name] = recipe
        return Path(shutil.copytree(mini_bundle.folder, folder, dirs_exist_ok=True))

    monkeypatch.setattr(exploration, "bundle_of", bundle_of)
    monkeypatch.setattr(Lattice, "most", lambda *_: 49)  # of 48 patches: no budget has room
    out = tmp_path / "exploration"
    command = typer.Typer()
    command.command()(exploration.main)
    options = ("--share", "0.5", "--policy", "none", "--policy", "lattice:4", "--threads", "1")
    arguments = [str(mini_checkpoint), str(dataset), "--recipe", str(RECIPE), *options]
    result = CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert {name: recipe.model.reference_tokens for name, recipe in asked.items()} == {
        f"{reference}-50": reference for reference in exploration.REFERENCES
    }
    assert len(asked) == 2
    for name in asked:
        assert f"{out / name} is left out with lattice:4: lattice:4 puts up to 49" in result.stderr

    document = json.loads((out / "exploration.json").read_text())
    points = document["points"]
    assert [point["reference_tokens"] for point in points] == list(exploration.REFERENCES)
    truth = figures_of(mini_bundle.folder, dataset, tmp_path / "again")
    annotations = json.loads((dataset / "instances.json").read_text())["annotations"]
    late = sum(any(one["segmentations"]) for one in annotations)
    for point in points:
        assert point["exploration"] == "none"
        assert point["budgets"] == list(mini_bundle.manifest.budgets)
        assert point["ap"] == truth.ap != 0
        assert point["objects"] == late > 2
        assert point["found"] == pytest.approx((late - 1) / late)
        assert point["frames_unseen"] == pytest.approx(2 / late)
    setting = document["setting"]
    assert setting["checkpoint"] == f"mini.safetensors, SHA-256 {hash_file(mini_checkpoint)}"
    assert setting["recipe"] == f"emoji-55.toml, SHA-256 {hash_file(RECIPE)}"
    assert setting["dataset"].endswith("1 videos, 3 frames")
    assert setting["objects that enter late"] == str(late)
    assert {f"- {key}: {value}" for key, value in setting.items()} <= set(result.stdout.split("\n"))

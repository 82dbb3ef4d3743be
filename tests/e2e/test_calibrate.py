"""`vpp-deploy calibrate`, as it is met on the command line."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.command_line import fails, succeeds
from tests.mini import INPUT_SIZE, SLOTS, ExportedMini, mini_config, write_mini_checkpoint
from tests.unit.video.synthetic import write_video
from vpp_deploy.cli.main import app
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.runtime.opening import open_checkpoint
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.video.source import open_source
from vpp_deploy.video.synthetic import moving_scene


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [frame.rgb for frame in moving_scene(INPUT_SIZE, 8, 1)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", images)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrated(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    document: dict[str, object] = json.loads(result.stdout)
    return document


def test_a_bundle(mini_bundle: ExportedMini, clip: Path, folder: Path) -> None:
    seen = calibrated(mini_bundle.folder, clip, "--html", "picture.html", "--out", "new.toml")
    budgets = mini_bundle.manifest.budgets
    assert seen["budgets"] == list(budgets)
    proposed = seen["proposed"]
    assert isinstance(proposed, list)
    assert proposed[0] == budgets[0]
    recipe = load_recipe("new.toml")
    assert recipe.slots == SLOTS
    assert recipe.budgets is not None
    assert recipe.model.keep_ratio is not None
    tokens = recipe.budgets.tokens(recipe.num_tokens, recipe.model.keep_ratio)
    assert [tokens.blocks_1_2, tokens.blocks_3_5, tokens.blocks_6_8, tokens.blocks_9_11] == proposed
    page = Path("picture.html").read_text()
    assert "/".join(map(str, proposed)) in page
    assert page.count("<svg") == 2


def test_the_counts_are_those_of_a_run_by_the_rule(
    mini_bundle: ExportedMini, clip: Path, folder: Path
) -> None:
    path = Path(mini_bundle.manifest.checkpoint)
    with open_source(clip) as source:
        opened = open_checkpoint(path, mini_bundle.manifest.preprocessing.input_size)
        session = VideoSession(opened.runner, tokens=True)
        depths = [result.tokens.depth for result in map(session.step, source) if result.tokens]
    most = [max(int((depth >= k).sum()) for depth in depths[1:]) for k in (2, 3, 4)]
    seen = calibrated(path, clip, "--size", "96x128", "--coverage", 1)
    assert seen["rule"]["most"] == most  # type: ignore[index]
    assert seen["frames"] == {clip.name: len(depths)}
    assert seen["coverage"] == [1, 1, 1, 1]


def test_a_saving(mini_bundle: ExportedMini, clip: Path, folder: Path) -> None:
    seen = calibrated(mini_bundle.folder, clip, "--saving", 0.5, "--frames", 3)
    assert seen["kept"] <= 0.5  # type: ignore[operator]
    assert seen["frames"] == {clip.name: 3}
    text = CliRunner().invoke(app, ["calibrate", str(mini_bundle.folder), str(clip)]).stdout
    assert re.search(r"blocks 9-11 .*\d+", text)
    assert "nothing is cut in" in text


class TestRefused:
    def test_a_moved_checkpoint(self, mini_bundle: ExportedMini, clip: Path, folder: Path) -> None:
        bundle = shutil.copytree(mini_bundle.folder, folder / "bundle")
        manifest = bundle / "manifest.json"
        document = json.loads(manifest.read_text())
        old = document["checkpoint"]
        manifest.write_text(json.dumps(document | {"checkpoint": "/nowhere/vpp.pth"}))
        assert "--checkpoint" in fails("calibrate", bundle, clip, cwd=folder)
        assert not list(folder.glob("*.toml"))
        succeeds("calibrate", bundle, clip, "--checkpoint", old, cwd=folder)
        other = write_mini_checkpoint(folder / "other.safetensors", mini_config(), metadata=False)
        line = fails("calibrate", bundle, clip, "--checkpoint", other, cwd=folder)
        assert "SHA-256" in line

    def test_a_dense_model(self, mini_dense_bundle: ExportedMini, clip: Path, folder: Path) -> None:
        assert "dense" in fails("calibrate", mini_dense_bundle.folder, clip, cwd=folder)

    def test_an_impossible_saving(
        self, mini_bundle: ExportedMini, clip: Path, folder: Path
    ) -> None:
        line = fails("calibrate", mini_bundle.folder, clip, "--saving", 0.95, cwd=folder)
        assert "keep_ratio" in line
        assert not list(folder.glob("*.toml"))

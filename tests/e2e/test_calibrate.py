"""`vpp-deploy calibrate`, as it is met on the command line."""

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.command_line import fails, succeeds, vpp
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
    assert page.count("blocks 9-11: ") == 1 + 8  # the budget's line, and every frame


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


def test_frames_of_another_shape_are_told(mini_bundle: ExportedMini, folder: Path) -> None:
    images = [np.roll(frame.rgb, 9, 0) for frame in moving_scene((96, 96), 4, 1)]
    square = write_video(folder / "square.mp4", images)
    notes = calibrated(mini_bundle.folder, square)["notes"]
    assert "square.mp4: frames of 96x96 are letterboxed into 96x128" in str(notes)


def test_every_other_frame(mini_bundle: ExportedMini, clip: Path, folder: Path) -> None:
    seen = calibrated(mini_bundle.folder, clip, "--stride", 2)
    assert seen["frames"] == {clip.name: 4}


def test_a_saving(mini_bundle: ExportedMini, clip: Path, folder: Path) -> None:
    seen = calibrated(mini_bundle.folder, clip, "--saving", 0.5, "--frames", 3)
    assert seen["kept"] <= 0.5  # type: ignore[operator]
    assert seen["frames"] == {clip.name: 3}
    text = CliRunner().invoke(app, ["calibrate", str(mini_bundle.folder), str(clip)]).stdout
    assert re.search(r"blocks 9-11 .*\d+", text)
    assert "nothing is cut in" in text


def test_videos_of_one_name_are_told_apart(
    mini_bundle: ExportedMini, clip: Path, folder: Path
) -> None:
    Path("other").mkdir()
    other = shutil.copy(clip, Path("other") / clip.name)
    seen = calibrated(mini_bundle.folder, clip, other, "--frames", 3)
    assert seen["frames"] == {clip.name: 3, f"{clip.name}-2": 3}


def test_what_could_not_be_read_is_told(
    mini_bundle: ExportedMini, clip: Path, folder: Path
) -> None:
    images = Path("images")
    images.mkdir()
    for number, frame in enumerate(moving_scene(INPUT_SIZE, 4, 1)):
        cv2.imwrite(str(images / f"{number}.png"), frame.rgb)
    (images / "2.png").write_bytes(b"no image")
    result = CliRunner().invoke(app, ["calibrate", str(mini_bundle.folder), "images", "--json"])
    seen = json.loads(result.stdout)
    assert seen["frames"] == {"images": 3}
    assert seen["notes"] == ["images: 1 corrupt packets or images were skipped"]
    assert f"note: {seen['notes'][0]}" in result.stderr


class TestRefused:
    @pytest.mark.parametrize("option", ["--out", "--html"])
    def test_to_overwrite_a_video(
        self, mini_bundle: ExportedMini, clip: Path, folder: Path, option: str
    ) -> None:
        video = Path(shutil.copy(clip, folder / "mine.mp4"))
        result = vpp("calibrate", mini_bundle.folder, video, option, video, cwd=folder)
        assert result.returncode == 2
        assert "would be overwritten" in result.stderr
        assert video.read_bytes() == clip.read_bytes()

    @pytest.mark.parametrize("option", ["--out", "--html"])
    def test_to_overwrite_what_a_model_was_made_from(
        self, mini_bundle: ExportedMini, clip: Path, folder: Path, option: str
    ) -> None:
        bundle = shutil.copytree(mini_bundle.folder, folder / "bundle")
        document = json.loads((bundle / "manifest.json").read_text())
        mine = Path(shutil.copy(document["checkpoint"], folder / "mine.safetensors"))
        before = mine.read_bytes()
        (bundle / "manifest.json").write_text(json.dumps(document | {"checkpoint": str(mine)}))
        result = vpp("calibrate", bundle, clip, option, mine, cwd=folder)
        assert result.returncode == 2
        assert mine.read_bytes() == before

    def test_to_overwrite_an_image(self, mini_bundle: ExportedMini, folder: Path) -> None:
        image = folder / "images" / "0.png"
        image.parent.mkdir()
        cv2.imwrite(str(image), np.zeros((*INPUT_SIZE, 3), np.uint8))
        before = image.read_bytes()
        result = vpp("calibrate", mini_bundle.folder, "images", "--out", image, cwd=folder)
        assert result.returncode == 2
        assert image.read_bytes() == before
        Path("images/other.toml").write_text("mine")
        beside = vpp(
            "calibrate", mini_bundle.folder, "images", "--out", "images/other.toml", cwd=folder
        )
        assert "would be overwritten" not in beside.stderr

    def test_two_files_of_one_name(
        self, mini_bundle: ExportedMini, clip: Path, folder: Path
    ) -> None:
        arguments = ("calibrate", mini_bundle.folder, clip, "--out", "a", "--html", "./a")
        assert vpp(*arguments, cwd=folder).returncode == 2
        assert not Path("a").exists()

    def test_to_write_into_a_bundle(
        self, mini_bundle: ExportedMini, clip: Path, folder: Path
    ) -> None:
        out = mini_bundle.folder / "new.toml"
        assert "holds a bundle" in fails(
            "calibrate", mini_bundle.folder, clip, "--out", out, cwd=folder
        )
        assert not out.exists()

    def test_a_later_video_before_the_first_has_run(
        self, mini_bundle: ExportedMini, clip: Path, folder: Path
    ) -> None:
        """The checkpoint is not looked at yet, and it is not there."""
        bundle = shutil.copytree(mini_bundle.folder, folder / "bundle")
        manifest = bundle / "manifest.json"
        document = json.loads(manifest.read_text()) | {"checkpoint": "/nowhere/vpp.pth"}
        manifest.write_text(json.dumps(document))
        assert "nowhere.mp4" in fails("calibrate", bundle, clip, "nowhere.mp4", cwd=folder)

    def test_a_pipe_that_would_have_to_be_opened_twice(
        self, mini_checkpoint: Path, folder: Path
    ) -> None:
        """Once to know the input's size, once to count."""
        os.mkfifo(folder / "pipe.mp4")
        line = fails("calibrate", mini_checkpoint, "pipe.mp4", cwd=folder)
        assert "--size" in line

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

"""`inspect`: what it says of bundles, engines, checkpoints and recipes, to people and programs."""

import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.mini import (
    CLASSES,
    INPUT_SIZE,
    SHARES,
    SLOTS,
    ExportedMini,
    mini_config,
    mini_tensors,
    write_mini_checkpoint,
)
from vpp_deploy.checkpoints.formula import config_text
from vpp_deploy.cli.main import app
from vpp_deploy.errors import BackendError, BundleError, CheckpointError, RecipeError
from vpp_deploy.manifests import MANIFEST_NAME, EngineBuild, Manifest, hash_file, write_manifest

RECIPES = Path(__file__).parents[2]
TOKENS = [int(48 * share) for share in (0.7, *SHARES)]


def said(*arguments: object) -> str:
    """What it prints; an error is raised as it is."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["inspect", *map(str, arguments)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def facts(*arguments: object) -> dict[str, Any]:
    document = json.loads(said(*arguments, "--json"))
    assert isinstance(document, dict)
    return document


def engines_of(bundle: ExportedMini, folder: Path) -> tuple[Path, Manifest]:
    """The bundle as if its graphs were engines."""
    shutil.copytree(bundle.folder, folder)
    stages = [stage.name for stage in bundle.manifest.pipeline.stages]
    build = EngineBuild(
        backend="tensorrt-rtx",
        version="1.7.1",
        architectures=("8.6", "8.9"),
        gpu=None,
        driver=None,
        build_s=dict.fromkeys(stages, 1.0),
        layers={stage: {"float16": 3} for stage in stages},
        graphs_sha256=dict.fromkeys(stages, "0" * 64),
        max_frame_size=(2160, 3840),
    )
    manifest = dataclasses.replace(
        bundle.manifest, target="gpu", precision="fp16", verification=None, engine=build
    )
    write_manifest(folder, manifest)
    return folder, manifest


class TestBundle:
    def test_what_it_is(self, mini_bundle: ExportedMini) -> None:
        found, manifest = facts(mini_bundle.folder), mini_bundle.manifest
        assert found["kind"] == "bundle"
        assert found["name"] == manifest.name
        assert found["input_size"] == list(INPUT_SIZE)
        assert (found["batch"], found["track_slots"], found["num_queries"]) == (1, SLOTS, 20)
        assert found["classes"] == list(CLASSES)
        assert found["num_tokens"] == 48
        assert found["budgets"] == TOKENS
        assert found["budget_shares"] == [round(count / 48, 4) for count in TOKENS]
        assert (found["precision"], found["target"]) == ("fp32", "cpu")
        assert found["checkpoint_sha256"] == manifest.checkpoint_sha256
        assert found["versions"] == manifest.versions
        assert found["engine"] is None
        assert found["notes"] == []

    def test_its_stages(self, mini_bundle: ExportedMini) -> None:
        found = facts(mini_bundle.folder)
        stages = {stage["name"]: stage for stage in found["stages"]}
        assert list(stages) == ["stem", "selector", "trunk", "head"]
        files = [mini_bundle.folder / stage["file"] for stage in stages.values()]
        assert [s["bytes"] for s in stages.values()] == [f.stat().st_size for f in files]
        assert found["bytes"] == sum(f.stat().st_size for f in files)
        for name, stage in stages.items():
            counted = mini_bundle.manifest.operations[name]
            assert (stage["macs"], stage["macs_first_frame"]) == (
                counted.macs,
                counted.macs_first_frame,
            )
            # At most four bytes a number, but for tables of positions.
            assert 0 < stage["parameters"] < stage["bytes"] / 2
        weights = sum(v.size for k, v in mini_tensors(mini_config()).items() if "tracked" not in k)
        assert sum(stage["parameters"] for stage in stages.values()) == pytest.approx(
            weights, rel=0.1
        )
        frames = {"name": "frames", "dtype": "uint8", "shape": [1, *INPUT_SIZE, 3]}
        assert frames in stages["stem"]["inputs"]
        assert {"name": "kept_1_2", "dtype": "int64", "shape": [1, -1]} in stages["trunk"]["inputs"]

    def test_for_people(self, mini_bundle: ExportedMini) -> None:
        text = said(mini_bundle.folder)
        assert text.startswith(f"{mini_bundle.folder}: bundle, ")
        for words in ("96x128", "33/24/16/9", "5: ball, boat, dog, person, tree", "8 track slots"):
            assert words in text
        assert "1 x 96 x 128 x 3" in text
        assert "1 x ?" in text
        assert "next_ref_tokens" not in said(mini_bundle.folder, "--no-tensors")

    def test_a_manifest_stands_for_its_folder(self, mini_bundle: ExportedMini) -> None:
        assert facts(mini_bundle.folder / MANIFEST_NAME) == facts(mini_bundle.folder)

    def test_without_onnx(self, mini_bundle: ExportedMini, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        found = facts(mini_bundle.folder)
        assert [stage["parameters"] for stage in found["stages"]] == [None] * 4
        (note,) = found["notes"]
        assert "vpp-deploy[export]" in note

    def test_numbers_that_json_has_not(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(mini_bundle.folder, tmp_path / "bundle"))
        seen = {"runner": "r", "frames": 2, "equal_tokens": {"k": math.nan}}
        write_manifest(folder, dataclasses.replace(mini_bundle.manifest, verification=seen))
        assert facts(folder)["verification"]["equal_tokens"] == {"k": None}

    def test_a_manifest_that_writes_to_the_terminal(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(mini_bundle.folder, tmp_path / "bundle"))
        hostile = "\x1b[2J[red]\nnew"
        changed = dataclasses.replace(
            mini_bundle.manifest, classes=(hostile, *CLASSES[1:]), name=hostile, checkpoint=hostile
        )
        write_manifest(folder, changed)
        text = said(folder)
        assert "\x1b" not in text
        assert "[2J[red] new" in text

    def test_damaged(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(mini_bundle.folder, tmp_path / "bundle"))
        with (folder / "head.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(BundleError, match="is not the file that was exported"):
            said(folder)


def test_engines(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    folder, manifest = engines_of(mini_bundle, tmp_path / "engines")
    found = facts(folder)
    assert manifest.engine is not None
    assert found["kind"] == "engine"
    assert found["engine"]["architectures"] == ["8.6", "8.9"]
    assert found["engine"]["version"] == manifest.engine.version
    assert {stage["parameters"] for stage in found["stages"]} == {None}
    text = said(folder)
    for words in ("tensorrt-rtx 1.7.1", "8.6, 8.9", "ahead of time, on no GPU", "2160x3840"):
        assert words in text


class TestCheckpoint:
    def test_with_a_recipe(self, mini_checkpoint: Path, mini_recipe: Path) -> None:
        found = facts(mini_checkpoint, "--recipe", mini_recipe)
        tensors = mini_tensors(mini_config())
        assert (found["kind"], found["format"]) == ("checkpoint", "safetensors")
        assert found["sha256"] == hash_file(mini_checkpoint)
        assert found["num_tensors"] == len(tensors)
        assert (found["width"], found["size"], found["pruned"]) == (48, None, True)
        assert found["keep_ratio"] == 0.7
        assert found["classes"] == list(CLASSES)
        assert sum(found["dtypes"].values()) == sum(value.size for value in tensors.values())
        assert sum(found["modules"].values()) == found["parameters"]
        assert found["modules"]["panoptic_head.query_feat"] == 20 * 64
        assert found["budgets"] == TOKENS
        assert found["model"]["decoder_layers"] == 3
        assert found["missing"] is None
        text = said(mini_checkpoint, "--recipe", mini_recipe)
        assert "nothing is missing" in text
        assert "backbone.blocks" in text

    def test_what_is_missing(self, mini_checkpoint: Path) -> None:
        found = facts(mini_checkpoint)
        assert found["recipe"] is None
        assert "expected one recipe for this checkpoint" in found["missing"]
        assert "--recipe" in found["missing"]

    def test_values_that_are_no_numbers(self, tmp_path: Path, mini_recipe: Path) -> None:
        key = "detector.panoptic_head.query_feat.weight"
        broken = np.full((20, 64), np.nan, np.float32)
        path = write_mini_checkpoint(tmp_path / "nan.safetensors", changes={key: broken})
        assert "NaN" in facts(path, "--recipe", mini_recipe)["missing"]

    def test_a_training_checkpoint(self, tmp_path: Path, mini_recipe: Path) -> None:
        config = mini_config()
        state = {key: torch.from_numpy(value) for key, value in mini_tensors(config).items()}
        text = config_text(config) + "\ndataset_type = 'YouTubeVISDataset'\n"
        meta = {"epoch": 6, "iter": 120, "cfg": text, "mmengine_version": "0.10.7"}
        meta["dataset_meta"] = {"CLASSES": CLASSES}
        path = tmp_path / "epoch_6.pth"
        torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, path)
        found = facts(path, "--recipe", mini_recipe)
        assert found["format"] == "torch"
        assert found["holds"] == ["meta", "optimizer"]
        assert found["training"] == {
            "epoch": 6,
            "iter": 120,
            "mmengine_version": "0.10.7",
            "dataset": "YouTubeVISDataset",
        }
        assert found["missing"] is None

    def test_foreign_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "foreign.pth"
        torch.save({"conv.weight": torch.ones(2, 3), "conv.bias": torch.ones(2)}, path)
        found = facts(path)
        assert found["width"] is found["pruned"] is found["model"] is None
        assert found["modules"] == {"conv": 8}
        assert "expected a published VPP or dense checkpoint" in found["missing"]
        assert "no ViT-Adapter" in said(path)

    def test_a_hostile_pickle(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.system, (f"touch {tmp_path / 'ran'}",))

        torch.save({"state_dict": {"a": torch.ones(1)}, "meta": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(CheckpointError):
            said(tmp_path / "evil.pth")
        assert not (tmp_path / "ran").exists()

    def test_without_torch(self, monkeypatch: pytest.MonkeyPatch, mini_checkpoint: Path) -> None:
        for name in [name for name in sys.modules if name.startswith("vpp_deploy.checkpoints")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(BackendError, match=r"needs torch, .* vpp-deploy\[export\]"):
            said(mini_checkpoint)

    def test_a_recipe_that_is_none(self, mini_checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"none\.toml"):
            said(mini_checkpoint, "--recipe", tmp_path / "none.toml")


class TestRecipe:
    def test_for_exports(self) -> None:
        found = facts(RECIPES / "export" / "tiny-40.toml")
        assert found["kind"] == "recipe"
        assert found["values"]["model"]["keep_ratio"] == 0.6
        assert (found["num_tokens"], found["budgets"]) == (2040, [1224, 856, 599, 420])
        assert "1224/856/599/420" in said(RECIPES / "export" / "tiny-40.toml")

    def test_for_engines(self) -> None:
        found = facts(RECIPES / "engines" / "rtx-30-40.toml")
        assert found["kind"] == "engine recipe"
        assert found["values"]["architectures"] == ["8.6", "8.9"]

    @pytest.mark.parametrize("text", ["", "[input", "surprise = 1", "[surprise]"])
    def test_neither(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "made.toml"
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"made\.toml"):
            said(path)


class TestNothingOfOurs:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no such file or folder"):
            said(tmp_path / "none")
        with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
            said(tmp_path / "none.pth")

    def test_another_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="is no bundle"):
            said(tmp_path)

    def test_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(BundleError, match="is none of ours"):
            said(tmp_path / "notes.txt")

    def test_a_recipe_for_no_checkpoint(self, mini_bundle: ExportedMini) -> None:
        arguments = ["inspect", str(mini_bundle.folder), "--recipe", "r.toml"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "--recipe is for a checkpoint" in result.stderr

"""The command line from outside: a process, its files, its exit code and what it says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.command_line import COMMAND, ENVIRONMENT, fails, succeeds, vpp, wait_for
from tests.mini import (
    CLASSES,
    INPUT_SIZE,
    ExportedMini,
    mini_config,
    write_mini_checkpoint,
    write_mini_recipe,
)
from tests.unit.video.synthetic import Image, moving, packet_places, write_video
from vpp_deploy.manifests import MANIFEST_NAME, hash_file, read_manifest
from vpp_deploy.video.synthetic import moving_scene

# pycocotools 2.0.11's decode() warns under NumPy 2. Remove when it knows the copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FRAMES = 6
WIDE = (64, 960)
"""Frames that the published preprocessing takes as they are."""

SIZE = f"{INPUT_SIZE[0]}x{INPUT_SIZE[1]}"


def scene(count: int, size: tuple[int, int]) -> list[Image]:
    return [frame.rgb for frame in moving_scene(size, count, 1)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", scene(FRAMES, INPUT_SIZE))


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, mini_checkpoint: Path, mini_recipe: Path
) -> Path:
    """A working directory in which the mini checkpoint was exported for a wide video (30 s)."""
    folder = tmp_path_factory.mktemp("work")
    write_video(folder / "wide.mp4", scene(12, WIDE))
    result = succeeds(
        "export", mini_checkpoint, "--recipe", mini_recipe, "--like", "wide.mp4", cwd=folder
    )
    (folder / "said").write_text(result.stdout)
    return folder


def load_outputs(out: Path) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """frames.jsonl, results.json, summary.json."""
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    results = json.loads((out / "results.json").read_text())
    assert not (out / "results.json.part").exists()
    return lines, results, json.loads((out / "summary.json").read_text())


def assert_outputs(out: Path, num_frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Every file is there, parses, and agrees with the others. Returns the summary."""
    lines, results, summary = load_outputs(out)
    assert len(lines) == summary["frames"] == num_frames
    assert [line["first"] for line in lines] == [True] + [False] * (num_frames - 1)
    assert len(results) == summary["tracks"]
    shown: dict[int, list[int]] = {}
    for t, line in enumerate(lines):
        for track in line["tracks"]:
            shown.setdefault(track["id"], []).append(t)
            assert track["class"] == CLASSES[track["label"]]
            assert int(coco_mask.area(track["rle"])) == track["area"]
    for (_, seen), entry in zip(sorted(shown.items()), results, strict=True):
        assert set(entry) == {"video_id", "score", "category_id", "segmentations"}
        assert 1 <= entry["category_id"] <= len(CLASSES)
        assert 0 < entry["score"] <= 1
        rles = entry["segmentations"]
        assert [t for t, rle in enumerate(rles) if rle is not None] == seen
        assert len(rles) == num_frames
        assert all(rle["size"] == list(size) for rle in rles if rle is not None)
        assert coco_mask.decode(rles[seen[0]]).shape == size
    assert {"decode", "stem", "trunk", "head"} <= summary["latency_ms"].keys()
    return summary


class TestExport:
    def test_what_it_makes(self, exported: Path, mini_checkpoint: Path) -> None:
        manifest = read_manifest(exported / "export" / "mini")
        assert manifest.preprocessing.input_size == WIDE
        assert manifest.name == "mini"
        assert manifest.checkpoint_sha256 == hash_file(mini_checkpoint)
        assert manifest.verification is not None
        assert manifest.verification["frames"] == 8
        assert set(manifest.verification["equal_tokens"].values()) == {1.0}
        assert [path.name for path in (exported / "export").iterdir()] == ["mini"]

    def test_what_it_says(self, exported: Path) -> None:
        said = (exported / "said").read_text()
        assert "kept_1_2" in said
        assert "100.00%" in said
        assert "export/mini: 4 graphs" in said.splitlines()[-1]
        assert "input 64x960" in said.splitlines()[-1]

    def test_run_finds_it(self, exported: Path) -> None:
        result = succeeds("run", "wide.mp4", cwd=exported)
        assert result.stdout.startswith("export/mini: bundle on ONNX Runtime (cpu)")
        summary = assert_outputs(exported / "runs" / "wide", 12, WIDE)
        assert not any("letterboxed" in note for note in summary["notes"])
        assert summary["ended_by"] is None
        assert summary["tracks"] > 0
        assert "12 frames" in result.stdout
        assert "results in runs/wide/" in result.stdout
        assert not (exported / "runs" / "wide" / "annotated.mp4").exists()

    def test_a_taken_folder(self, tmp_path: Path, mini_checkpoint: Path, mini_recipe: Path) -> None:
        (tmp_path / "precious.txt").write_text("precious")
        arguments = ("export", mini_checkpoint, "--recipe", mini_recipe, "--out", ".")
        assert "--out" in fails(*arguments, cwd=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


class TestRun:
    def test_annotated_range_of_a_video(
        self, clip: Path, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        arguments = ("--model", mini_bundle.folder, "--out", "out", "--annotate", "--threads", 1)
        succeeds("run", clip, *arguments, "--start", 1, "--stop", 6, "--stride", 2, cwd=tmp_path)
        assert_outputs(tmp_path / "out", 3, INPUT_SIZE)
        lines = (tmp_path / "out" / "frames.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in lines] == [1, 3, 5]
        with av.open(str(tmp_path / "out" / "annotated.mp4")) as video:
            shapes = [frame.to_ndarray(format="rgb24").shape for frame in video.decode(video=0)]
        assert shapes == [(*INPUT_SIZE, 3)] * 3

    def test_a_folder_of_images(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        for i, rgb in enumerate(scene(3, (160, 90))):
            cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), rgb[..., ::-1])
        succeeds("run", "images", "--model", mini_bundle.folder, cwd=tmp_path)
        summary = assert_outputs(tmp_path / "runs" / "images", 3, (160, 90))
        assert any("letterboxed" in note for note in summary["notes"])

    @pytest.mark.parametrize("rule", ["published", "budgets"])
    def test_a_checkpoint(
        self, clip: Path, mini_checkpoint: Path, mini_recipe: Path, tmp_path: Path, rule: str
    ) -> None:
        recipe = ("--recipe", mini_recipe) if rule == "budgets" else ()
        model = ("--model", mini_checkpoint, "--size", SIZE, "--out", "out", "--rule", rule)
        result = succeeds("run", clip, *model, *recipe, cwd=tmp_path)
        assert f"checkpoint on PyTorch (cpu), {rule} rule" in result.stdout
        summary = assert_outputs(tmp_path / "out", FRAMES, INPUT_SIZE)
        assert summary["tracks"] > 0

    def test_checkpoint_and_bundle_agree(
        self,
        clip: Path,
        mini_checkpoint: Path,
        mini_recipe: Path,
        mini_bundle: ExportedMini,
        tmp_path: Path,
    ) -> None:
        """The same budgets in PyTorch and in ONNX Runtime: the same tracks."""
        model = ("--model", mini_checkpoint, "--rule", "budgets", "--recipe", mini_recipe)
        succeeds("run", clip, *model, "--size", SIZE, "--out", "torch", cwd=tmp_path)
        succeeds("run", clip, "--model", mini_bundle.folder, "--out", "onnx", cwd=tmp_path)
        ours, theirs = (
            [
                [(track["id"], track["label"]) for track in json.loads(line)["tracks"]]
                for line in (tmp_path / name / "frames.jsonl").read_text().splitlines()
            ]
            for name in ("torch", "onnx")
        )
        assert ours == theirs

    def test_exploration_is_repeatable(
        self, clip: Path, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        seen = []
        for _ in range(2):
            model = ("--model", mini_bundle.folder, "--exploration", "noise:3", "--out", "out")
            succeeds("run", clip, *model, cwd=tmp_path)
            seen.append((tmp_path / "out" / "results.json").read_bytes())
        assert seen[0] == seen[1]

    def test_the_newest_model_is_the_default(
        self, clip: Path, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        for age_s, place in ((30, "export/old"), (10, "engines/new"), (20, "export/older")):
            folder = shutil.copytree(mini_bundle.folder, tmp_path / place)
            then = time.time() - age_s
            os.utime(folder / MANIFEST_NAME, (then, then))
        result = succeeds("run", clip, "--stop", 1, cwd=tmp_path)
        assert result.stdout.startswith("engines/new: ")

    def test_results_of_an_earlier_run_are_replaced(
        self, clip: Path, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        arguments = ("run", clip, "--model", mini_bundle.folder, "--out", "out")
        succeeds(*arguments, "--annotate", "--stop", 3, cwd=tmp_path)
        succeeds(*arguments, "--stop", 2, cwd=tmp_path)
        assert_outputs(tmp_path / "out", 2, INPUT_SIZE)
        assert not (tmp_path / "out" / "annotated.mp4").exists()


class TestSeveral:
    """Several videos, stepped together."""

    def test_more_videos_than_streams(
        self, clip: Path, mini_bundle_of_3: ExportedMini, tmp_path: Path
    ) -> None:
        write_video(tmp_path / "clip.mp4", scene(4, (90, 160)))
        lengths = {clip: FRAMES, Path("clip.mp4"): 4, Path("b.mp4"): 2, Path("c.mp4"): 3}
        write_video(tmp_path / "b.mp4", scene(2, INPUT_SIZE))
        write_video(tmp_path / "c.mp4", scene(3, (48, 64)))
        model = ("--model", mini_bundle_of_3.folder)
        result = succeeds("run", *lengths, *model, "--annotate", cwd=tmp_path)
        assert "4 videos, milliseconds a step of 3 streams" in result.stdout
        assert "15 frames, " in result.stdout
        assert "15/15" in result.stderr
        sizes = (INPUT_SIZE, (90, 160), INPUT_SIZE, (48, 64))
        names = ("clip", "clip-2", "b", "c")
        for name, count, size in zip(names, lengths.values(), sizes, strict=True):
            assert f" runs/{name}/ " in result.stdout
            summary = assert_outputs(tmp_path / "runs" / name, count, size)
            assert summary["streams"] == 3
            assert summary["latency_ms"]["whole step"]["p50"] > 0
            with av.open(str(tmp_path / "runs" / name / "annotated.mp4")) as video:
                assert len(list(video.decode(video=0))) == count

    def test_a_range_of_each(
        self, clip: Path, mini_bundle_of_3: ExportedMini, tmp_path: Path
    ) -> None:
        model = ("--model", mini_bundle_of_3.folder, "--out", "out")
        bounds = ("--start", 1, "--stop", 6, "--stride", 2)
        succeeds("run", clip, clip, *model, *bounds, cwd=tmp_path)
        for name in ("clip", "clip-2"):
            lines, *_ = load_outputs(tmp_path / "out" / name)
            assert [line["index"] for line in lines] == [1, 3, 5]

    def test_one_video(self, clip: Path, mini_bundle_of_3: ExportedMini, tmp_path: Path) -> None:
        result = succeeds("run", clip, "--model", mini_bundle_of_3.folder, cwd=tmp_path)
        # A title is as wide as its table, and goes on in the next line.
        shown = " ".join(result.stdout.split())
        assert "clip.mp4, milliseconds a step of 3 streams" in shown
        assert "whole step" in result.stdout
        assert "note: 2 of the model's 3 streams had no video" in result.stderr
        summary = assert_outputs(tmp_path / "runs" / "clip", FRAMES, INPUT_SIZE)
        assert "2 of the model's 3 streams" in summary["notes"][0]

    def test_a_checkpoint_by_a_recipe(
        self, clip: Path, mini_checkpoint: Path, tmp_path: Path
    ) -> None:
        recipe = write_mini_recipe(tmp_path / "two.toml", batch=2)
        model = ("--model", mini_checkpoint, "--rule", "budgets", "--recipe", recipe)
        succeeds("run", clip, clip, clip, *model, "--size", SIZE, "--stop", 3, cwd=tmp_path)
        first, *others = (
            assert_outputs(tmp_path / "runs" / name, 3, INPUT_SIZE)
            for name in ("clip", "clip-2", "clip-3")
        )
        assert first["streams"] == 2
        assert [other["tracks"] for other in others] == [first["tracks"]] * 2

    def test_one_that_fails(
        self, clip: Path, mini_bundle_of_3: ExportedMini, tmp_path: Path
    ) -> None:
        path = write_video(tmp_path / "cut.mp4", moving(40, *INPUT_SIZE), faststart=True)
        offset, length = packet_places(path)[20]
        path.write_bytes(path.read_bytes()[: offset + length // 2])
        model = ("--model", mini_bundle_of_3.folder, "--out", "out")
        result = vpp("run", "cut.mp4", clip, *model, cwd=tmp_path)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        *_, reason, error = result.stderr.splitlines()
        assert reason.startswith("failed: cut.mp4 ends early")
        assert error == "error: 1 of 2 videos failed: cut.mp4"
        summary = assert_outputs(tmp_path / "out" / "clip", FRAMES, INPUT_SIZE)
        assert summary["ended_by"] is None
        done = json.loads((tmp_path / "out" / "cut" / "summary.json").read_text())["frames"]
        summary = assert_outputs(tmp_path / "out" / "cut", done, INPUT_SIZE)
        assert "ends early" in summary["ended_by"]


class TestInterrupted:
    """Whatever ends a run, what was computed stays readable."""

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_by_a_signal(
        self, mini_bundle: ExportedMini, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        write_video(tmp_path / "long.mp4", moving(1500, *INPUT_SIZE))
        command = ["run", "long.mp4", "--model", str(mini_bundle.folder), "--out", "out"]
        _interrupt(command, tmp_path, [tmp_path / "out"], number, code)

    def test_several_videos_by_a_signal(
        self, mini_bundle_of_3: ExportedMini, tmp_path: Path
    ) -> None:
        write_video(tmp_path / "long.mp4", moving(1500, *INPUT_SIZE))
        videos = ["long.mp4"] * 4
        command = ["run", *videos, "--model", str(mini_bundle_of_3.folder), "--out", "out"]
        folders = [tmp_path / "out" / name for name in ("long", "long-2", "long-3")]
        _interrupt(command, tmp_path, folders, signal.SIGTERM, 143)
        assert [p.name for p in (tmp_path / "out" / "long-4").iterdir()] == [".lock"]

    def test_by_the_end_of_a_truncated_video(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        path = write_video(tmp_path / "cut.mp4", moving(40, *INPUT_SIZE), faststart=True)
        offset, length = packet_places(path)[20]
        path.write_bytes(path.read_bytes()[: offset + length // 2])
        result = vpp("run", "cut.mp4", "--model", mini_bundle.folder, "--out", "out", cwd=tmp_path)
        assert result.returncode == 1
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "cut.mp4 ends early" in errors[0]
        assert "Traceback" not in result.stderr
        done = json.loads((tmp_path / "out" / "summary.json").read_text())["frames"]
        assert 15 <= done <= 21
        summary = assert_outputs(tmp_path / "out", done, INPUT_SIZE)
        assert "ends early" in summary["ended_by"]

    def test_by_an_image_of_another_size(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        for i in range(4):
            size = INPUT_SIZE if i < 3 else (50, 50)
            cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.zeros((*size, 3), np.uint8))
        result = vpp("run", "images", "--model", mini_bundle.folder, "--out", "out", cwd=tmp_path)
        assert result.returncode == 1
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in result.stderr
        summary = assert_outputs(tmp_path / "out", 3, INPUT_SIZE)
        assert "50x50" in summary["ended_by"]


def _interrupt(
    command: list[str], cwd: Path, folders: list[Path], number: signal.Signals, code: int
) -> None:
    """Sends the signal when five frames are done, and checks what each folder then holds."""
    with subprocess.Popen(
        [*COMMAND, *command, "--annotate"],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs the tests in the background may have told them to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        last_written = folders[-1] / "frames.jsonl"
        assert wait_for(lambda: last_written.exists() and last_written.read_text().count("\n") >= 5)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in stderr
    for out in folders:
        written, results, summary = load_outputs(out)
        done = len(written)
        assert 5 <= done < 1500
        assert summary["frames"] == done
        assert summary["ended_by"] is not None
        assert results
        assert {len(entry["segmentations"]) for entry in results} == {done}
        with av.open(str(out / "annotated.mp4")) as video:
            assert len(list(video.decode(video=0))) == done


class TestBadInput:
    """One line on stderr, exit code 1, no traceback, nothing left behind."""

    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path) -> Iterator[None]:
        self.cwd = tmp_path
        yield
        assert not (tmp_path / "runs").exists()

    def test_no_such_video(self, mini_bundle: ExportedMini) -> None:
        line = fails("run", "nowhere.mp4", "--model", mini_bundle.folder, cwd=self.cwd)
        assert "nowhere.mp4: no such file" in line

    def test_a_text_file(self, mini_bundle: ExportedMini) -> None:
        (self.cwd / "notes.txt").write_text("not a video\n" * 100)
        line = fails("run", "notes.txt", "--model", mini_bundle.folder, cwd=self.cwd)
        assert "notes.txt" in line

    def test_a_text_file_that_claims_to_be_a_video(self, mini_bundle: ExportedMini) -> None:
        (self.cwd / "video.mp4").write_text("not a video\n" * 100)
        line = fails("run", "video.mp4", "--model", mini_bundle.folder, cwd=self.cwd)
        assert "video.mp4" in line

    def test_a_video_cut_before_its_index(self, clip: Path, mini_bundle: ExportedMini) -> None:
        (self.cwd / "cut.mp4").write_bytes(clip.read_bytes()[:1000])
        line = fails("run", "cut.mp4", "--model", mini_bundle.folder, cwd=self.cwd)
        assert "cut.mp4" in line

    def test_an_empty_file(self, mini_bundle: ExportedMini) -> None:
        (self.cwd / "empty.mp4").touch()
        fails("run", "empty.mp4", "--model", mini_bundle.folder, cwd=self.cwd)

    def test_an_empty_folder(self, mini_bundle: ExportedMini) -> None:
        (self.cwd / "images").mkdir()
        line = fails("run", "images", "--model", mini_bundle.folder, cwd=self.cwd)
        assert "no readable image" in line

    def test_no_model(self, clip: Path) -> None:
        line = fails("run", clip, cwd=self.cwd)
        assert "no model in engines/ and export/" in line
        assert "--model" in line

    def test_no_such_model(self, clip: Path) -> None:
        assert "nowhere is no bundle" in fails("run", clip, "--model", "nowhere", cwd=self.cwd)
        line = fails("run", clip, "--model", "nowhere.pth", "--size", SIZE, cwd=self.cwd)
        assert "nowhere.pth" in line

    def test_a_tampered_bundle(self, clip: Path, mini_bundle: ExportedMini) -> None:
        folder = shutil.copytree(mini_bundle.folder, self.cwd / "bundle")
        with (folder / "head.onnx").open("ab") as file:
            file.write(b"\0")
        line = fails("run", clip, "--model", "bundle", cwd=self.cwd)
        assert "head.onnx is not the file that was exported" in line

    def test_another_schema(self, clip: Path, mini_bundle: ExportedMini) -> None:
        folder = shutil.copytree(mini_bundle.folder, self.cwd / "bundle")
        document = json.loads((folder / MANIFEST_NAME).read_text())
        (folder / MANIFEST_NAME).write_text(json.dumps(document | {"schema": 99}))
        assert "schema 99" in fails("run", clip, "--model", "bundle", cwd=self.cwd)

    def test_an_unknown_backend(self, clip: Path, mini_bundle: ExportedMini) -> None:
        arguments = ("run", clip, "--model", mini_bundle.folder, "--backend", "tpu")
        result = vpp(*arguments, cwd=self.cwd)
        assert result.returncode == 2
        assert "'tpu' is none of onnxruntime" in result.stderr

    def test_several_videos_for_one_stream(
        self, clip: Path, mini_bundle: ExportedMini, mini_checkpoint: Path
    ) -> None:
        line = fails("run", clip, clip, "--model", mini_bundle.folder, cwd=self.cwd)
        assert "2 videos were given; export with a recipe whose input.batch is 2" in line
        arguments = ("--model", mini_checkpoint, "--size", SIZE)
        line = fails("run", clip, clip, clip, *arguments, cwd=self.cwd)
        assert "3 videos were given; use --rule budgets with a recipe whose input.batch" in line

    def test_one_of_several_cannot_be_read(
        self, clip: Path, mini_bundle_of_3: ExportedMini
    ) -> None:
        (self.cwd / "notes.txt").write_text("not a video\n" * 100)
        for name in ("nowhere.mp4", "notes.txt"):
            videos = (clip, clip, clip, clip, name)
            line = fails("run", *videos, "--model", mini_bundle_of_3.folder, cwd=self.cwd)
            assert name in line

    def test_exploring_a_dense_model(self, clip: Path, mini_dense_bundle: ExportedMini) -> None:
        arguments = ("run", clip, "--model", mini_dense_bundle.folder, "--exploration", "lattice")
        assert "dense" in fails(*arguments, cwd=self.cwd)

    def test_an_output_folder_that_is_a_file(self, clip: Path, mini_bundle: ExportedMini) -> None:
        (self.cwd / "out").write_text("precious")
        arguments = ("run", clip, "--model", mini_bundle.folder, "--out", "out")
        result = vpp(*arguments, cwd=self.cwd)
        assert result.returncode == 1
        assert result.stderr.count("error: ") == 1  # below the progress bar
        assert "--out" in result.stderr.splitlines()[-1]
        assert (self.cwd / "out").read_text() == "precious"

    def test_a_malicious_checkpoint(self, clip: Path) -> None:
        import torch

        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, (f"touch {self.side_effect}",)

            side_effect = self.cwd / "side-effect"

        torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Evil()}, self.cwd / "evil.pth")
        for arguments in (
            ("run", clip, "--model", "evil.pth", "--size", SIZE),
            ("export", "evil.pth", "--recipe", self._recipe()),
        ):
            line = fails(*arguments, cwd=self.cwd)
            assert "evil.pth" in line
            assert f"{os.system.__module__}.system" in line.replace(" ", ".")
        assert not Evil.side_effect.exists()
        assert not (self.cwd / "export").exists()

    def test_a_gap_names_the_recipe_key(self, clip: Path) -> None:
        write_mini_checkpoint(self.cwd / "mute.safetensors", metadata=False)
        arguments = ("run", clip, "--model", "mute.safetensors", "--size", SIZE)
        assert "set model.vit_heads in the recipe" in fails(*arguments, cwd=self.cwd)

    def test_no_recipe_fits(self, mini_checkpoint: Path) -> None:
        line = fails("export", mini_checkpoint, cwd=self.cwd)
        assert "--recipe" in line
        assert not (self.cwd / "export").exists()

    def test_a_recipe_without_a_key(self, mini_checkpoint: Path) -> None:
        (self.cwd / "r.toml").write_text("[tracks]\nslots = 8\n")
        line = fails("export", mini_checkpoint, "--recipe", "r.toml", cwd=self.cwd)
        assert "r.toml: input.size is missing" in line

    def test_a_recipe_that_contradicts(self, mini_checkpoint: Path) -> None:
        recipe = write_mini_recipe(self.cwd / "r.toml", extra="[model]\nkeep_ratio = 0.6\n")
        line = fails("export", mini_checkpoint, "--recipe", recipe, cwd=self.cwd)
        assert "keep_ratio = 0.7" in line
        assert "model.keep_ratio = 0.6" in line

    def test_budgets_of_a_dense_model(self) -> None:
        path = write_mini_checkpoint(self.cwd / "dense.safetensors", mini_config(pruned=False))
        line = fails("export", path, "--recipe", self._recipe(), cwd=self.cwd)
        assert "[budgets]" in line

    def _recipe(self) -> Path:
        return write_mini_recipe(self.cwd / "mini.toml")


class TestUsage:
    """Wrong usage is exit code 2."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "Usage"),
            (("fly",), "No such command"),
            (("run",), "Missing argument"),
            (("export",), "Missing argument"),
            (("run", "v.mp4", "--surprise"), "No such option"),
            (("run", "v.mp4", "--stop", "0"), "--stop"),
            (("run", "v.mp4", "--start", "5", "--stop", "5"), "must be greater"),
            (("run", "v.mp4", "--rule", "guess"), "--rule"),
            (("run", "v.mp4", "--model", "bundle", "--rule", "published"), "--rule"),
            (("run", "v.mp4", "--model", "m.pth", "--backend", "onnxruntime"), "--backend"),
            (("export", "m.pth", "--size", "64x64", "--like", "v.mp4"), "give one"),
            (("export", "m.pth", "--size", "100x100"), "multiples of 32"),
            (("export", "m.pth", "--size", "big"), "is no size"),
        ],
    )
    def test_wrong_usage(self, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
        result = vpp(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert message in result.stderr + result.stdout
        assert "Traceback" not in result.stderr

    def test_a_size_for_a_checkpoint(self, clip: Path, mini_checkpoint: Path) -> None:
        arguments = ("run", clip, "--model", mini_checkpoint, "--size", "100x100")
        result = vpp(*arguments, cwd=mini_checkpoint.parent)
        assert result.returncode == 2
        assert "multiples of 32" in result.stderr

    def test_the_installed_script(self, tmp_path: Path) -> None:
        script = Path(sys.executable).with_name("vpp-deploy")
        if not script.exists():
            pytest.skip("the package is not installed as a script")
        result = subprocess.run(
            [script, "--version"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode == 0
        assert result.stdout.startswith("vpp-deploy ")

"""`vpp-deploy profile` from outside, over small models."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import COMMAND, ENVIRONMENT, fails, succeeds, vpp
from tests.e2e.test_cli import SIZE
from tests.mini import INPUT_SIZE, ExportedMini
from tests.unit.video.synthetic import write_video
from vpp_deploy.manifests import MANIFEST_NAME, hash_file
from vpp_deploy.video.synthetic import moving_scene

STAGES = {"resize", "upload", "stem", "trunk", "head", "postprocess", "tracking"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [frame.rgb for frame in moving_scene(INPUT_SIZE, 5)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def parts(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["part"]: part for part in model["parts"]}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    clip: Path,
    mini_dense_bundle: ExportedMini,
    mini_bundle: ExportedMini,
) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    outputs = ("--json", "p.json", "--html", "p.html", "--trace", "t.json")
    models = (mini_dense_bundle.folder, mini_bundle.folder)
    options = ("--video", clip, "--frames", 12, "--warmup", 2, "--threads", 1)
    result = succeeds("profile", *models, *options, *outputs, cwd=folder)
    (folder / "said").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "p.json").read_text())
    return document


class TestComparison:
    """What one run wrote that writes everything."""

    def test_nothing_else_is_left(self, folder: Path) -> None:
        assert {p.name for p in folder.iterdir()} == {"p.json", "p.html", "t.json", "said"}

    def test_every_sample_is_there(self, document: dict[str, Any]) -> None:
        assert document["frames"] == 12
        assert document["first_frames"] == 3  # the video has 5 frames: it was started again twice
        assert any("started again" in note for note in document["notes"])
        for model in document["models"]:
            samples = model["samples"]
            assert samples["first"] == [i % 5 == 0 for i in range(12)]
            assert samples["stage_ms"].keys() >= STAGES
            for i in range(12):
                stages = [times[i] or 0 for times in samples["stage_ms"].values()]
                assert 0 < sum(stages) <= samples["step_ms"][i] + 0.1
        # Decoding, which opening the video does for its first frame, is apart from the frame.
        decoded = [ms is not None for ms in document["decode_ms"]["samples"]]
        assert decoded == [i % 5 != 0 for i in range(12)]

    def test_a_first_frame_skips_the_selector(self, document: dict[str, Any]) -> None:
        dense, pruned = document["models"]
        assert "selector" not in dense["samples"]["stage_ms"]
        ran = [ms is not None for ms in pruned["samples"]["stage_ms"]["selector"]]
        assert ran == [i % 5 != 0 for i in range(12)]
        assert parts(pruned)["selector"]["first_ms"] is None
        assert pruned["samples"]["tokens_kept"]["kept_1_2"][:2] == [48, 33]

    def test_operations_are_the_manifests(
        self, document: dict[str, Any], mini_bundle: ExportedMini
    ) -> None:
        _, pruned = document["models"]
        counted = mini_bundle.manifest.operations
        for stage, operations in counted.items():
            assert parts(pruned)[stage]["macs"] == operations.macs
        assert parts(pruned)["all graphs"]["macs"] == sum(o.macs for o in counted.values())
        assert pruned["sha256"] == hash_file(mini_bundle.folder / MANIFEST_NAME)

    def test_ratios_are_against_the_first(self, document: dict[str, Any]) -> None:
        (ratios,) = document["ratios"]
        assert ratios["model"] == "one"
        assert ratios["of"] == "dense"
        by_part = {ratio["part"]: ratio for ratio in ratios["parts"]}
        assert by_part["trunk"]["operations"] < 1
        assert by_part["head"]["operations"] == pytest.approx(1, rel=0.01)
        assert "selector" not in by_part
        assert all(ratio["latency"] > 0 for ratio in ratios["parts"])

    def test_the_record(self, document: dict[str, Any]) -> None:
        assert {"CPU", "cores", "memory", "onnxruntime", "threads"} <= document[
            "environment"
        ].keys()
        assert document["environment"]["threads"] == "1"
        assert document["command"].startswith("vpp-deploy profile ")
        assert document["memory"]["peak_bytes"] > 1e6
        assert len(document["memory"]["resident_bytes"]) == 12
        assert document["load_average"].keys() == {"start", "end"}

    def test_nodes(self, document: dict[str, Any]) -> None:
        for model in document["models"]:
            assert sum(node["share"] for node in model["operators"]) > 0.5
            assert {node["stage"] for node in model["operators"]} >= {"stem", "trunk", "head"}
            times = [node["ms"] for node in model["nodes"]]
            assert times == sorted(times, reverse=True)
            assert times[0] > 0

    def test_the_trace_has_one_clock(self, folder: Path) -> None:
        """Every node of ONNX Runtime lies in a stage of ours, by a clock of its own."""
        events = json.loads((folder / "t.json").read_text())["traceEvents"]
        complete = [e for e in events if e["ph"] == "X"]
        stages = [e for e in complete if e["cat"] == "stage"]
        nodes = [e for e in complete if e["cat"] == "node"]
        assert len({e["pid"] for e in nodes}) == 2
        slack_us = 200
        for node in nodes[::17]:
            assert any(
                stage["pid"] == node["pid"]
                and stage["name"] == node["args"]["stage"]
                and stage["ts"] - slack_us <= node["ts"]
                and node["ts"] + node["dur"] <= stage["ts"] + stage["dur"] + slack_us
                for stage in stages
            )

    def test_the_page(self, folder: Path) -> None:
        page = (folder / "p.html").read_text()
        assert page.startswith("<!DOCTYPE html>")
        assert page.count("<svg") >= 8
        assert "Profile of dense and one" in page

    def test_what_it_says(self, folder: Path) -> None:
        said = (folder / "said").read_text()
        assert said.startswith("9 frames of clip.mp4, 128x96 (first frames apart: 3, warm-up: 2)")
        assert "decoding is not part of the whole frame" in said
        for text in ("GMAC/s", "whole frame", "one of dense", "slowest nodes", "frames/s", "peak"):
            assert text in said
        assert said.rstrip().endswith("written: p.json, p.html, t.json")


def test_a_checkpoint_beside_its_bundle(
    mini_checkpoint: Path, mini_recipe: Path, mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    """PyTorch counts about what the graphs hold."""
    rule = ("--rule", "budgets", "--recipe", mini_recipe, "--size", SIZE)
    models = (mini_bundle.folder, mini_checkpoint)
    succeeds("profile", *models, *rule, "--frames", 3, "--json", "p.json", cwd=tmp_path)
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["video"] == "a synthetic moving scene of 128x96"
    ours, theirs = map(parts, document["models"])
    for stage in ("selector", "trunk", "head", "all graphs"):
        assert theirs[stage]["macs"] == pytest.approx(ours[stage]["macs"], rel=0.1)
        assert theirs[stage]["macs_first_frame"] == pytest.approx(
            ours[stage]["macs_first_frame"], rel=0.1
        )
    assert document["models"][1]["nodes"] == []


def test_a_checkpoint_alone_under_the_published_rule(mini_checkpoint: Path, tmp_path: Path) -> None:
    options = ("--size", SIZE, "--frames", 3, "--no-nodes", "--html", "p.html", "--json", "p.json")
    result = succeeds("profile", mini_checkpoint, *options, cwd=tmp_path)
    assert "published rule" in result.stdout
    assert "operations were not counted" in result.stdout
    (model,) = json.loads((tmp_path / "p.json").read_text())["models"]
    assert len(model["samples"]["tokens_kept"]) == 4
    assert model["samples"]["tokens_kept"]["kept_1_2"][0] == 48


def test_several_streams(mini_bundle_of_3: ExportedMini, tmp_path: Path) -> None:
    options = ("--frames", 4, "--json", "p.json", "--no-nodes")
    result = succeeds("profile", mini_bundle_of_3.folder, *options, cwd=tmp_path)
    assert "milliseconds a step of 3 streams" in result.stdout
    assert "p50 a frame" in result.stdout
    (model,) = json.loads((tmp_path / "p.json").read_text())["models"]
    assert model["batch"] == 3
    step = parts(model)["whole frame"]
    assert model["frames_per_s"] == pytest.approx(3000 / step["mean_ms"], rel=0.01)


def test_a_model_against_itself(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    options = ("--frames", 5, "--warmup", 0, "--no-nodes", "--json", "p.json")
    succeeds("profile", mini_bundle.folder, mini_bundle.folder, *options, cwd=tmp_path)
    document = json.loads((tmp_path / "p.json").read_text())
    assert [model["label"] for model in document["models"]] == ["one (1)", "one (2)"]
    assert all(ratio["operations"] in (1, None) for ratio in document["ratios"][0]["parts"])
    assert any("without a warm-up" in note for note in document["notes"])


class TestRefused:
    def test_where_it_cannot_write(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        """Found out before anything is measured."""
        arguments = ("profile", mini_bundle.folder, "--html", "missing/p.html")
        assert "cannot write missing/p.html" in fails(*arguments, cwd=tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--json", "p", "--html", "p"), "must name different files"),
            (("--trace", "t.json", "--no-nodes"), "--no-nodes"),
            (("--rule", "published"), "--rule is for a checkpoint"),
            (("--json", "clip.mp4", "--video", "clip.mp4"), "would be overwritten"),
            (("--frames", "0"), "'--frames'"),
        ],
    )
    def test_wrong_usage(
        self, mini_bundle: ExportedMini, tmp_path: Path, arguments: tuple[str, ...], said: str
    ) -> None:
        result = vpp("profile", mini_bundle.folder, *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert said in result.stderr
        assert list(tmp_path.iterdir()) == []

    def test_no_bundle(self, tmp_path: Path) -> None:
        assert "is no bundle" in fails("profile", tmp_path / "none", cwd=tmp_path)

    def test_a_broken_second_model(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        broken = Path(shutil.copytree(mini_bundle.folder, tmp_path / "broken"))
        (broken / "head.onnx").write_bytes(b"")
        arguments = ("profile", mini_bundle.folder, broken, "--json", "p.json")
        assert "head.onnx is not the file" in fails(*arguments, cwd=tmp_path)
        assert not list(tmp_path.glob("p.json*"))

    def test_interrupted(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        arguments = ("profile", mini_bundle.folder, "--frames", "100000", "--json", "p.json")
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(4)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143
        assert "Traceback" not in said
        assert list(tmp_path.iterdir()) == []

"""The GPU benchmark on a CPU: what it checks, what it measures, and what it says of what fails."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.gpu import main
from benchmarks.gpu_acceptance import ask
from benchmarks.gpu_cases import Case, Own, cases_of
from benchmarks.gpu_checks import Check, against_exact, verdict
from benchmarks.gpu_contenders import Contender, ModelContender
from benchmarks.gpu_methods import METHODS, Method, chosen
from benchmarks.gpu_run import Settings, benchmark
from benchmarks.gpu_workplace import Workplace
from tests.mini import INPUT_SIZE, ExportedMini, graphs_of
from vpp_deploy.drift import Bounds
from vpp_deploy.errors import BackendError
from vpp_deploy.export import bundle as bundle_module

ONNXRUNTIME = "ONNX Runtime CPU fp16"
STAGES, REFERENCE = "stages, eager fp32", "reference, eager fp32"
RTX = "TensorRT-RTX fp16"
PIPELINE = {"stem", "selector", "trunk", "head", "masks"}


def broken(stage: str) -> Method:
    """The model in fp32 with other weights in one stage."""

    def opened(workplace: Workplace, case: Case) -> Contender:
        prepared = workplace.prepared(case, "fp32")
        with torch.no_grad():
            for parameter in prepared.plan.stages[stage].parameters():
                parameter.mul_(-1.1)
        return ModelContender(workplace.in_pytorch(prepared, f"broken {stage}"))

    return Method(opened, (against_exact,), single=True)


def absent(workplace: Workplace, case: Case) -> Contender:
    raise ImportError("no module named\n'gone'")


METHODS_HERE = {
    # One export is enough.
    ONNXRUNTIME: dataclasses.replace(METHODS[ONNXRUNTIME], single=True),
    "broken trunk": broken("trunk"),
    "broken head": broken("head"),
    "absent": Method(absent, (against_exact,)),
    RTX: METHODS[RTX],
    STAGES: METHODS[STAGES],
    REFERENCE: METHODS[REFERENCE],
}


def settings(own: Own, out: Path, batches: str, minutes: float | None = None) -> Settings:
    return Settings(
        device="cpu",
        out=out,
        input_size=INPUT_SIZE,
        frame_size=(90, 158),
        video=None,
        cases=cases_of("mini", "", batches),
        frames=4,
        turns=2,
        check_frames=4,
        bounds=Bounds(tokens=0.8, tracks=0.8),  # a token of nine is a tenth
        own=own,
        minutes=minutes,
    )


@pytest.fixture(scope="module")
def own(mini_checkpoint: Path, mini_recipe: Path) -> Own:
    return Own(mini_checkpoint, mini_recipe)


@pytest.fixture(scope="module")
def document(
    own: Own, mini_fp16_bundle: ExportedMini, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Of a run over everything."""
    out = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "export_graph", graphs_of(mini_fp16_bundle))
        benchmark(settings(own, out, "1,2"), METHODS_HERE)
    return {**json.loads((out / "gpu.json").read_text()), "md": (out / "gpu.md").read_text()}


def row(document: Any, method: str, batch: int = 1) -> Any:
    (found,) = (r for r in document["rows"] if (r["method"], r["batch"]) == (method, batch))
    return found


class TestRows:
    @pytest.mark.parametrize(
        ("method", "batch"), [(ONNXRUNTIME, 1), (STAGES, 1), (STAGES, 2), (REFERENCE, 1)]
    )
    def test_what_can_run_is_timed_in_turns(self, document: Any, method: str, batch: int) -> None:
        found = row(document, method, batch)
        assert (found["status"], found["turns"]) == ("timed", 2), found["reason"]
        assert found["frame_ms"]["frames"] == 4
        assert 0 < found["frame_ms"]["p50"] <= found["frame_ms"]["p90"] <= found["frame_ms"]["p99"]
        assert found["first_ms"] > 0
        parts = {"backbone", "pixel decoder", "transformer decoder"}
        assert found["stage_ms"].keys() == (parts if method == REFERENCE else PIPELINE)
        assert all(stage["p50"] > 0 for stage in found["stage_ms"].values())
        whole = sum(stage["p50"] for stage in found["stage_ms"].values())
        assert whole < 10 * found["frame_ms"]["p50"]

    @pytest.mark.parametrize(
        ("method", "batch"), [(ONNXRUNTIME, 1), (STAGES, 1), (STAGES, 2), (REFERENCE, 1)]
    )
    def test_it_was_compared(self, document: Any, method: str, batch: int) -> None:
        found = row(document, method, batch)
        assert found["correct"] == "yes"
        (check,) = found["checks"]
        assert check["figures"]["frames"] >= 3
        assert check["figures"]["instances"] > 0
        assert check["figures"]["found by both"] >= 0.8

    def test_half_precision_is_half(self, document: Any) -> None:
        (check,) = row(document, ONNXRUNTIME)["checks"]
        assert max(check["figures"]["features"].values()) > 1e-4

    @pytest.mark.parametrize(
        ("method", "seen"),
        [("broken trunk", "projected4 differs"), ("broken head", "found by both")],
    )
    def test_a_broken_model_is_timed_and_marked(
        self, document: Any, method: str, seen: str
    ) -> None:
        found = row(document, method)
        assert found["status"] == "timed"
        assert found["correct"].startswith("NO: fp32 on cpu: ")
        assert seen in found["correct"]
        (line,) = (x for x in document["md"].splitlines() if f" {method}: correct: NO" in x)
        assert seen in line
        (line, *_) = (x for x in document["md"].splitlines() if f" {method} |" in x)
        assert "| " + "NO".rjust(len("correct")) + " |" in line

    def test_what_fails_says_why_and_stops_nobody(self, document: Any) -> None:
        for batch in (1, 2):
            found = row(document, "absent", batch)
            assert found["status"] == "failed"
            assert found["reason"] == "ImportError: no module named 'gone'"
            assert found["frame_ms"] is None
        assert (
            "mini, batch 1, absent: failed: ImportError: no module named 'gone'" in document["md"]
        )

    def test_what_does_not_fit_says_so(self, document: Any) -> None:
        assert row(document, RTX)["reason"] == "for --device cuda"
        assert row(document, REFERENCE, 2)["reason"] == "it steps one stream"
        assert row(document, REFERENCE, 2)["status"] == "not run"


class TestReport:
    def test_rooflines(self, document: Any) -> None:
        floors = document["floors"]["mini, batch 1"]
        assert floors.keys() == PIPELINE
        peaks = document["peaks"]
        for name, floor in floors.items():
            rate = peaks["fp32_flops" if name == "masks" else "fp16_flops"]
            assert floor["products_ms"] == pytest.approx(2e3 * floor["macs"] / rate)
            assert floor["memory_ms"] == pytest.approx(1e3 * floor["bytes"] / peaks["bytes_per_s"])
        # Logits of 28 queries at a quarter of 96x128 in float32 are read, among others.
        assert 28 * 24 * 32 * 4 < floors["masks"]["bytes"] < 1_000_000

    def test_machine_and_command(self, document: Any) -> None:
        assert document["setting"]["command"].startswith("python -m benchmarks.gpu")
        assert document["machine"]["torch"] == torch.__version__
        assert document["machine"]["device"] == "cpu"
        assert document["peaks"]["bytes_per_s"] > 0

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_acceptance_is_an_answer(self, document: Any) -> None:
        answer = document["acceptance"]["tensorrt-rtx"]
        assert not answer["accepted"]
        assert "driver" in answer["answer"]

    def test_no_answer_is_an_answer(self) -> None:
        answer = ask("tensorrt-rtx", timeout_s=0.01)
        assert not answer["accepted"]
        assert answer["answer"] == "gave no answer within 0.01 s after: the start"

    def test_time_limit(self, own: Own, tmp_path: Path) -> None:
        report = benchmark(settings(own, tmp_path, "1", minutes=0), METHODS_HERE)
        assert {r.reason for r in report.rows} == {"the time was up", "for --device cuda"}
        written = json.loads((tmp_path / "gpu.json").read_text())
        assert [r["status"] for r in written["rows"]] == ["not run"] * len(METHODS_HERE)


class TestCommandLine:
    def run(self, *arguments: str) -> Any:
        app = typer.Typer()
        app.command()(main)
        return CliRunner().invoke(app, arguments)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu(self, tmp_path: Path) -> None:
        result = self.run("--out", str(tmp_path))
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "error: PyTorch finds no GPU here; run with --device cpu --size 128x160"
        ]

    def test_weights_of_ones_own(self, own: Own, tmp_path: Path) -> None:
        size = f"{INPUT_SIZE[0]}x{INPUT_SIZE[1]}"
        options = ["--checkpoint", str(own.checkpoint), "--recipe", str(own.recipe)]
        options += ["--size", size, "--frame-size", "90x158", "--frames", "2", "--turns", "1"]
        result = self.run(
            "--device", "cpu", "--out", str(tmp_path), "--batches", "1", "--minutes", "0", *options
        )
        assert result.exit_code == 0, result.output
        assert (
            f"{own.checkpoint.stem}, batch 1, {STAGES}: not run: the time was up" in result.stdout
        )

    def test_half_of_ones_own(self, own: Own, tmp_path: Path) -> None:
        result = self.run("--device", "cpu", "--checkpoint", str(own.checkpoint))
        assert result.exit_code == 2
        assert "--recipe" in result.stderr


def test_verdicts() -> None:
    passed, failed = Check("fp32"), Check("fp32", failures=["far off"])
    missing = Check("the CPU", not_made="it is away")
    assert verdict([passed]) == "yes"
    assert verdict([missing, failed]) == "NO: fp32: far off"
    assert verdict([passed, missing]) == "partly: the CPU: it is away"
    assert verdict([missing]) == "not checked: the CPU: it is away"
    assert verdict([]) == "not checked: nothing to compare with"


def test_the_important_ones_come_first() -> None:
    cases = cases_of("small,tiny", "52,40,dense", "1,8")
    assert cases[0] == Case("small", "52", 1)
    assert [case.batch for case in cases] == [1] * 6 + [8] * 6
    assert cases[2].name == "Small dense, batch 1"
    assert cases[2].model == "dense-small"


def test_methods_are_chosen_by_their_words() -> None:
    assert list(chosen(None)) == list(METHODS)
    assert set(chosen("rtx, eager fp32")) == {RTX, STAGES, REFERENCE}
    with pytest.raises(BackendError, match="no method is called 'gone'"):
        chosen("gone")

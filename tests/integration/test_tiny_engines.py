"""VPP Tiny at its published size, in half precision, built by TensorRT for RTX without a GPU."""

from pathlib import Path

import pytest

from benchmarks.build import measure, print_table
from vpp_deploy.checkpoints.formula import write_formula_checkpoint
from vpp_deploy.export.bundle import export_bundle
from vpp_deploy.partition.prepare import prepare_budgets

ROOT = Path(__file__).parents[2]

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VPP Tiny, 544x960, fp16 (70 s)."""
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint = folder / "tiny.safetensors"
    write_formula_checkpoint(checkpoint, "tiny")
    prepared = prepare_budgets(checkpoint, ROOT / "export" / "tiny-40.toml", None, "fp16")
    return export_bundle(prepared, folder / "tiny-40-fp16").folder


def test_every_stage_is_built_for_two_generations(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = measure(tiny_bundle, ("8.6", "8.9"))
    with capsys.disabled():
        print()
        print_table(tiny_bundle, figures)
    stages = ("stem", "selector", "trunk", "head", "masks")
    assert [(f.stage, f.architecture) for f in figures] == [
        (stage, architecture) for stage in stages for architecture in ("8.6", "8.9")
    ]
    for f in figures:
        assert f.engine_bytes > 100_000, f
        assert f.peak_bytes is None or f.peak_bytes < 3e9, f

"""`benchmarks.build`: engines of TensorRT for RTX, with their time and memory, without a GPU."""

import pytest

from benchmarks.build import measure, print_table
from tests.mini import ExportedMini

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


def test_every_stage(mini_fp16_bundle: ExportedMini, capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure(mini_fp16_bundle.folder, ("8.6",))
    stages = ("stem", "selector", "trunk", "head", "masks")
    assert [(f.stage, f.architecture) for f in figures] == [(stage, "8.6") for stage in stages]
    for f in figures:
        assert f.build_s > 0, f
        assert f.engine_bytes > 1_000, f
        assert f.peak_bytes is None or f.peak_bytes > f.engine_bytes, f
    print_table(mini_fp16_bundle.folder, figures)
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in stages)

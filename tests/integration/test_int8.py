"""A bundle whose linear layers are in int8."""

from collections import Counter

import numpy as np
import onnx
import pytest

from tests.mini import ExportedMini, frames
from vpp_deploy.parity import compare
from vpp_deploy.parity_report import OutputDifference, ParityReport
from vpp_deploy.runtime.onnx_runner import OnnxRunner
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.runtime.session import VideoSession

pytestmark = pytest.mark.usefixtures("one_thread")


def compared(exported: ExportedMini, precision: str) -> ParityReport:
    budgets = exported.prepared.budgets
    assert budgets is not None
    counts = (budgets.blocks_3_5, budgets.blocks_6_8, budgets.blocks_9_11)
    runner = OnnxRunner(exported.inspected, exported.inspected_manifest)
    steps = [[frame] for frame in frames(6, 1)]
    return compare(exported.prepared.model, counts, runner, steps, 4, precision)


def operators(exported: ExportedMini, stage: str) -> Counter[str]:
    graph = onnx.load(exported.folder / exported.manifest.files[stage]).graph
    return Counter(node.op_type for node in graph.node)


def test_the_drift_is_that_of_eight_bits(mini_int8_bundle: ExportedMini) -> None:
    assert not compared(mini_int8_bundle, "int8").failures()
    # The same outputs are no good as fp32: the bounds are no formality.
    failures = compared(mini_int8_bundle, "fp32").failures()
    assert any("class_logits" in failure for failure in failures)


def test_what_is_quantised(mini_int8_bundle: ExportedMini, mini_bundle: ExportedMini) -> None:
    for stage in ("stem", "trunk", "head"):
        quantised, plain = operators(mini_int8_bundle, stage), operators(mini_bundle, stage)
        assert quantised["MatMulInteger"] > 0
        assert quantised["MatMul"] + quantised["MatMulInteger"] == plain["MatMul"]
        assert quantised["DeformConv"] == plain["DeformConv"]
    # Three selective modules of two layers each decide which tokens run.
    assert operators(mini_int8_bundle, "selector")["MatMulInteger"] == 0
    assert mini_int8_bundle.manifest.precision == "int8"
    assert mini_bundle.manifest.precision == "fp32"


def test_it_runs_like_any_other(mini_int8_bundle: ExportedMini) -> None:
    session = VideoSession(open_bundle(mini_int8_bundle.folder).runner)
    assert [session.step(frame).first for frame in frames(3)] == [True, False, False]


def test_garbage_is_out_of_bounds() -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((4, 1000), np.float32)
    difference = OutputDifference()
    difference.add(rng.permuted(expected, axis=1), expected)
    report = ParityReport("int8", 1, outputs={"queries": difference}, equal_tokens={"kept": 0.5})
    assert len(report.failures()) == 2
    difference = OutputDifference()
    difference.add(np.full_like(expected, np.nan), expected)
    assert ParityReport("int8", 1, outputs={"queries": difference}).failures()

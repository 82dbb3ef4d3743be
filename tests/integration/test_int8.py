"""A bundle whose linear layers are in int8."""

import ast

import numpy as np
import onnx
import pytest

from tests.mini import ExportedMini, frames
from vpp_deploy.errors import ExportError
from vpp_deploy.export.quantize import quantize_linear_layers
from vpp_deploy.parity import compare
from vpp_deploy.parity_report import OutputDifference, ParityReport
from vpp_deploy.runtime.onnx_runner import OnnxRunner


def compared(exported: ExportedMini, precision: str) -> ParityReport:
    budgets = exported.prepared.budgets
    assert budgets is not None
    counts = (budgets.blocks_3_5, budgets.blocks_6_8, budgets.blocks_9_11)
    runner = OnnxRunner(exported.inspected, exported.inspected_manifest)
    steps = [[frame] for frame in frames(6, 1)]
    return compare(exported.prepared.model, counts, runner, steps, 4, precision)


def test_the_drift_is_that_of_eight_bits(mini_int8_bundle: ExportedMini) -> None:
    assert not compared(mini_int8_bundle, "int8").failures()
    # The same outputs are no good as fp32: the bounds are no formality.
    failures = compared(mini_int8_bundle, "fp32").failures()
    assert any("class_logits" in failure for failure in failures)


def modules(node: onnx.NodeProto) -> set[str]:
    """Names of the modules that a node came from."""
    scopes = next(p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes")
    return {part for scope in ast.literal_eval(scopes) for part in scope.split(".")}


def test_what_is_quantised(mini_int8_bundle: ExportedMini, mini_bundle: ExportedMini) -> None:
    """What decides stays in fp32; the nodes are those of the fp32 bundle, renamed."""
    decides = {"selective_modules", "matching_module", "attention_weights", "cls_embed"}
    found: set[str] = set()
    for stage in ("stem", "trunk", "head"):
        file = mini_bundle.manifest.files[stage]
        plain = onnx.load(mini_bundle.folder / file).graph
        quantised = onnx.load(mini_int8_bundle.folder / file).graph
        names = {n.name for n in quantised.node if n.op_type == "MatMulInteger"}
        assert names
        for node in plain.node:
            if node.op_type == "MatMul" and modules(node) & (decides | {"mask_embedding"}):
                assert f"{node.name}_quant" not in names
                found |= modules(node)
    assert decides | {"mask_embedding"} <= found
    assert mini_int8_bundle.manifest.precision == "int8"
    assert mini_bundle.manifest.precision == "fp32"


def test_a_graph_that_does_not_name_its_modules_is_refused(mini_bundle: ExportedMini) -> None:
    graph = onnx.load(mini_bundle.folder / mini_bundle.manifest.files["stem"])
    for node in graph.graph.node:
        del node.metadata_props[:]
    with pytest.raises(ExportError, match="which module"):
        quantize_linear_layers(graph)


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

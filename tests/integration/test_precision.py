"""Half precision: what is lowered, what stays, and the bundles that engines are built from."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.mini import ExportedMini, frames, graphs_of, write_mini_checkpoint, write_mini_recipe
from vpp_deploy.errors import BundleError, CheckpointError, ExportError
from vpp_deploy.export import bundle as bundle_module
from vpp_deploy.export.lint import lint_graph
from vpp_deploy.export.typed import gpu_bundle
from vpp_deploy.manifests import read_manifest
from vpp_deploy.models.precision import ISLANDS
from vpp_deploy.parity import BundleVerifier, compare
from vpp_deploy.partition.plan import inspected_plan
from vpp_deploy.partition.prepare import prepare_budgets
from vpp_deploy.runtime.torch_runner import TorchRunner


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(request: pytest.FixtureRequest) -> ExportedMini:
    bundle: ExportedMini = request.getfixturevalue(f"mini_{request.param}_bundle")
    return bundle


class TestGraphs:
    def test_what_the_stages_hand_over_is_half(self, half: ExportedMini) -> None:
        dtype = {"fp16": "float16", "bf16": "bfloat16"}[half.manifest.precision]
        spec = half.manifest.pipeline
        for name in ("tokens", "pyramid", "stride4", "projected4", "projected32", "ref_tokens"):
            assert spec.tensor(name).dtype == dtype, name
        for name in ("ref_scores", "rank_noise", "class_logits", "mask_logits", "queries"):
            assert spec.tensor(name).dtype == "float32", name
        assert half.manifest.target == "gpu"

    def test_products_are_half_outside_of_the_islands(self, half: ExportedMini) -> None:
        low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
        wanted = low[half.manifest.precision]
        kept = {"selection": 0, "other": 0}
        products = 0
        for stage, file in half.manifest.files.items():
            model = onnx.load(half.folder / file)
            types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
            types |= {v.name: v.type.tensor_type.elem_type for v in model.graph.output}
            for node in model.graph.node:
                if node.op_type not in ("MatMul", "Conv", "ConvTranspose", "Gemm", "Einsum"):
                    continue
                products += 1
                if types[node.output[0]] != wanted:
                    assert node.op_type == "MatMul", (stage, node.name)
                    kept["selection" if stage in ("selector", "trunk") else "other"] += 1
        # Three selective modules and Map-SM's scores, two products each, and the similarities.
        assert kept["selection"] == 2 * 3 + 2 + 1
        # Before each of 3 layers and after the last: a mask MLP of 3 layers and its product; the
        # classes; two products that resize masks.
        assert kept["other"] == 4 * (3 + 1) + 1 + 2
        assert products > 3 * sum(kept.values())

    def test_values_and_decisions_stay_close(self, half: ExportedMini) -> None:
        prepared = half.prepared
        assert prepared.recipe is not None
        assert prepared.budgets is not None
        verifier = BundleVerifier(prepared, num_frames=6)
        inspected = half.inspected_manifest
        summary = verifier(half.inspected, half.manifest, inspected)
        assert summary is not None
        assert summary["frames"] == 6
        report = verifier.report
        assert report is not None
        # Not fp32 by accident: half precision leaves its mark.
        floor = {"fp16": 1e-4, "bf16": 1e-3}[half.manifest.precision]
        assert floor < report.outputs["projected8"].rms_ratio < 100 * floor
        assert min(report.equal_tokens.values()) > 0.8

    def test_without_the_islands_it_is_worse(
        self, mini_checkpoint: Path, mini_recipe: Path
    ) -> None:
        """Coordinates in bfloat16 are off by a quarter of a cell in a grid of this size."""
        from vpp_deploy.checkpoints.load import build_model
        from vpp_deploy.partition.plan import plan_pipeline

        errors = {}
        for name, islands in (("all", ISLANDS), ("none", ())):
            prepared = prepare_budgets(mini_checkpoint, mini_recipe, None)
            assert prepared.budgets is not None
            plan = plan_pipeline(
                prepared.model,
                (96, 128),
                prepared.budgets,
                8,
                precision="bf16",
                islands=islands,
            )
            reference = build_model(prepared.checkpoint, prepared.recipe.model)  # type: ignore[union-attr]
            counts = dataclasses.astuple(prepared.budgets)[1:]
            runner = TorchRunner(inspected_plan(plan))
            report = compare(reference, counts, runner, ([f] for f in frames(3)))
            errors[name] = report.outputs["ref_scores"].rms_ratio
        assert errors["none"] > 1.2 * errors["all"]


class TestLint:
    def test_gpu_graphs_hold_no_deformable_convolution(self, mini_bundle: ExportedMini) -> None:
        graph = onnx.load(mini_bundle.folder / "head.onnx")
        lint_graph("head", graph, "cpu")
        with pytest.raises(ExportError, match="head fails the lint: DeformConv: TensorRT"):
            lint_graph("head", graph, "gpu")

    def test_bytes_are_cast_first(self) -> None:
        x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [2, 3])
        y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [3, 2])
        node = onnx.helper.make_node("Transpose", ["x"], ["y"])
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
        lint_graph("stem", model, "cpu")
        with pytest.raises(ExportError, match="Transpose of uint8"):
            lint_graph("stem", model, "gpu")


class TestGpuBundles:
    def test_is_made_beside_and_reused(
        self,
        mini_bundle: ExportedMini,
        mini_fp16_bundle: ExportedMini,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(bundle_module, "export_graph", graphs_of(mini_fp16_bundle))
        folder = tmp_path / "one"
        shutil.copytree(mini_bundle.folder, folder)
        steps: list[str] = []
        made = gpu_bundle(folder, "fp16", None, steps.append)
        assert made == tmp_path / "one-fp16"
        manifest, source = read_manifest(made), read_manifest(folder)
        assert (manifest.precision, manifest.target) == ("fp16", "gpu")
        for name in ("batch", "track_slots", "budgets", "classes", "checkpoint_sha256", "model"):
            assert getattr(manifest, name) == getattr(source, name), name
        assert steps
        steps.clear()
        assert gpu_bundle(folder, "fp16", None, steps.append) == made
        assert gpu_bundle(made, "fp16", None, steps.append) == made
        assert not steps

    def test_needs_the_checkpoint(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        folder = tmp_path / "one"
        shutil.copytree(mini_bundle.folder, folder)
        manifest = (folder / "manifest.json").read_text()
        gone = manifest.replace(source_path(mini_bundle), "elsewhere/mini.safetensors")
        (folder / "manifest.json").write_text(gone)
        with pytest.raises(ExportError, match=r"elsewhere/mini.safetensors is not there"):
            gpu_bundle(folder, "fp16", None)
        other = write_mini_checkpoint(
            tmp_path / "other.safetensors",
            changes={"detector.backbone.level_embed": np.zeros((3, 48), np.float32)},
        )
        with pytest.raises(CheckpointError, match=r"other.safetensors is not the checkpoint that"):
            gpu_bundle(folder, "fp16", other)
        assert not (tmp_path / "one-fp16").exists()

    def test_an_engine_is_no_source(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no bundle"):
            gpu_bundle(tmp_path, "fp16", None)


def source_path(bundle: ExportedMini) -> str:
    return bundle.manifest.checkpoint


def test_lowering_leaves_integers_and_islands(mini_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_mini_recipe(tmp_path / "r.toml", extra='[export]\nprecision = "fp16"\n')
    stages = prepare_budgets(mini_checkpoint, recipe, None).plan.stages
    dtypes = {
        name: value.dtype
        for stage in stages.values()
        for name, value in (*stage.named_parameters(), *stage.named_buffers())
    }
    islands = frozenset[str]().union(*(island.modules for island in ISLANDS))
    assert {d for n, d in dtypes.items() if not islands.isdisjoint(n.split("."))} == {torch.float32}
    others = {d for n, d in dtypes.items() if islands.isdisjoint(n.split("."))}
    assert others <= {torch.float16, torch.int64}
    for island in ISLANDS:
        assert any(not island.modules.isdisjoint(name.split(".")) for name in dtypes), island.name

"""Writes a bundle: four graphs and a manifest, aside first and renamed when all is well."""

import dataclasses
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from vpp_deploy import __version__
from vpp_deploy.export.graphs import export_graph, without_last_outputs
from vpp_deploy.export.lint import lint_graph
from vpp_deploy.export.operations import count_float32_products, count_pipeline
from vpp_deploy.export.quantize import quantize_linear_layers
from vpp_deploy.folders import staged_folder
from vpp_deploy.manifests import (
    Manifest,
    Preprocessing,
    hash_file,
    read_manifest,
    write_manifest,
)
from vpp_deploy.models.vpp import MEAN_RGB, STD_RGB
from vpp_deploy.partition.plan import inspected_plan
from vpp_deploy.partition.prepare import Prepared
from vpp_deploy.specs import StageSpec

_LIBRARIES = ("torch", "onnx", "onnxscript")
INSPECTED_HEAD = "head.inspected.onnx"
_MAX_FRAME_SIDE = 16384

Progress = Callable[[str], None]
Verify = Callable[[Path, Manifest, Manifest], dict[str, Any] | None]
"""Loads a staged bundle and compares it with the model.

It gets the folder, the bundle's manifest, and the one whose head shows its attention masks.
"""


@dataclasses.dataclass(frozen=True)
class OnnxBundle:
    """A finished bundle."""

    folder: Path
    manifest: Manifest


def library_versions() -> dict[str, str]:
    """Of what makes the graphs, as installed."""
    versions = {library: metadata.version(library) for library in _LIBRARIES}
    return versions | {"vpp-deploy": __version__}


def export_bundle(
    prepared: Prepared,
    folder: Path,
    *,
    verify: Verify | None = None,
    progress: Progress = lambda _: None,
) -> OnnxBundle:
    """Exports every stage into `folder`.

    Args:
        prepared: a model whose sampler exports (`SAMPLERS`), and its plan with fixed budgets.
        folder: its last part is the bundle's name. It must not hold anything but an older bundle,
            which is replaced.
        verify: called before the bundle appears; what it raises leaves no bundle.
        progress: told what is being done.

    Raises:
        ExportError: a stage cannot be exported, its graph is not clean, or the folder is taken or
            cannot be written.
    """
    with staged_folder(folder) as staging:
        files = _write_graphs(prepared, staging, progress)
        manifest = _manifest(prepared, folder.resolve().name, staging, files)
        if verify is not None:
            progress("comparing the graphs with PyTorch")
            seen = verify(staging, manifest, _inspected(prepared, manifest))
            manifest = dataclasses.replace(manifest, verification=seen)
        progress("publishing the bundle")
        (staging / INSPECTED_HEAD).unlink()
        write_manifest(staging, manifest)
    return OnnxBundle(folder, read_manifest(folder))


def _write_graphs(prepared: Prepared, folder: Path, progress: Progress) -> dict[str, str]:
    plan, shown = prepared.plan, inspected_plan(prepared.plan)
    num_tokens = plan.spec.tensor("tokens").shape[1]
    bounds = {
        "kept_1_2": (1 if prepared.budgets is None else prepared.budgets.blocks_3_5, num_tokens),
        "row_weights": (1, _MAX_FRAME_SIDE),
        "column_weights": (1, _MAX_FRAME_SIDE // 8),
    }
    assert prepared.recipe is not None, "a model for PyTorch alone"
    int8, target = prepared.recipe.precision == "int8", prepared.recipe.target

    def export(module: nn.Module, stage: StageSpec) -> onnx.ModelProto:
        graph = export_graph(module, stage, bounds)
        return quantize_linear_layers(graph) if int8 else graph

    files = {}
    for stage in plan.spec.stages:
        progress(f"exporting {stage.name}")
        name = f"{stage.name}.onnx"
        if stage.name == "head":
            inspected = export(shown.stages["head"], shown.stage("head"))
            onnx.save(inspected, folder / INSPECTED_HEAD)
            graph = without_last_outputs(inspected, stage)
        else:
            graph = export(plan.stages[stage.name], stage)
        lint_graph(stage.name, graph, target)
        onnx.save(graph, folder / name)
        files[stage.name] = name
    return files


def _inspected(prepared: Prepared, manifest: Manifest) -> Manifest:
    """The manifest of the staged bundle, with the head that shows its masks."""
    return dataclasses.replace(
        manifest,
        pipeline=inspected_plan(prepared.plan).spec,
        files={**manifest.files, "head": INSPECTED_HEAD},
    )


def _manifest(prepared: Prepared, name: str, folder: Path, files: dict[str, str]) -> Manifest:
    model, plan, budgets = prepared.model, prepared.plan, prepared.budgets
    assert prepared.recipe is not None, "a model for PyTorch alone"
    frames = plan.spec.tensor("frames").shape
    return Manifest(
        name=name,
        pipeline=plan.spec,
        batch=frames[0],
        track_slots=plan.spec.tensor("track_queries").shape[1],
        num_queries=model.config.num_queries,
        classes=model.config.classes,
        budgets=() if budgets is None else dataclasses.astuple(budgets),
        precision=prepared.recipe.precision,
        target=prepared.recipe.target,
        preprocessing=Preprocessing((frames[1], frames[2]), MEAN_RGB, STD_RGB),
        model=dataclasses.asdict(model.config),
        operations=count_pipeline(plan.spec, folder, files),
        float32_products={
            stage: count_float32_products(onnx.load(folder / file)) for stage, file in files.items()
        },
        files=files,
        sha256={file: hash_file(folder / file) for file in files.values()},
        checkpoint=str(prepared.checkpoint.path),
        checkpoint_sha256=prepared.checkpoint.sha256,
        versions=library_versions(),
        verification=None,
        engine=None,
    )

"""A bundle of typed graphs to a folder of engines that its manifest vouches for."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vpp_deploy.engines.recipes import EngineRecipe
from vpp_deploy.engines.stage_build import BuiltStage, Sizes, StageJob, build_stage
from vpp_deploy.engines.target import Target
from vpp_deploy.engines.timing_cache import TimingCache, cache_file
from vpp_deploy.errors import BundleError, EngineError
from vpp_deploy.folders import staged_folder
from vpp_deploy.manifests import (
    MANIFEST_NAME,
    EngineBuild,
    Manifest,
    hash_file,
    read_manifest,
    write_manifest,
)
from vpp_deploy.specs import StageSpec

Progress = Callable[[str, str, int, int], None]
"""Told the stage, the phase of its build, the phase's steps that are done, and all of them."""

_USUAL_FRAME_SIZE = (720, 1280)


@dataclass(frozen=True)
class EngineFolder:
    """Finished engines.

    Attributes:
        folder: that holds them and their manifest.
        manifest: of that folder.
        inspected: stage to what `BuiltStage.inspected` says.
    """

    folder: Path
    manifest: Manifest
    inspected: dict[str, dict[str, int] | None]


def build_engines(
    trt: Any,
    bundle: Path,
    folder: Path,
    target: Target,
    recipe: EngineRecipe,
    progress: Progress = lambda *_: None,
) -> EngineFolder:
    """Builds every stage of a bundle into `folder`.

    Args:
        trt: the module of `target.backend`.
        bundle: with graphs for the GPU, in the recipe's precision if it says one.
        folder: must hold nothing but older engines, which are replaced; what fails or is
            interrupted leaves it as it was.
        target: which library, for what.
        recipe: workspace, level and largest frame; what it says of backend and architectures is in
            `target` already.
        progress: told how far it is, from another thread.

    Raises:
        BundleError: `bundle` is damaged, or has no graphs to build engines from.
        EngineError: a stage cannot be built, or the folder not be written.
    """
    manifest = read_manifest(bundle)
    _check_buildable(bundle, manifest, recipe)
    if folder.resolve() == bundle.resolve():
        raise EngineError(f"{folder} is the bundle itself; choose another folder with --out")
    if (folder / MANIFEST_NAME).is_file() and read_manifest(folder).engine is None:
        raise EngineError(
            f"{folder} holds a bundle of graphs, and would be replaced; choose another folder with "
            "--out"
        )
    cache = _timing_cache(trt, folder, target)
    built: dict[str, BuiltStage] = {}
    with staged_folder(folder, EngineError) as staging:
        for stage in manifest.pipeline.stages:
            built[stage.name] = build_stage(
                trt,
                stage_job(bundle, manifest, stage, target, recipe),
                timing_cache=cache,
                inspect=target.gpu is not None,
                report=partial(progress, stage.name),
            )
            (staging / f"{stage.name}.engine").write_bytes(built[stage.name].engine)
        if cache is not None:
            cache.save()
        write_manifest(staging, _engine_manifest(trt, manifest, staging, target, recipe, built))
    return EngineFolder(
        folder, read_manifest(folder), {name: stage.inspected for name, stage in built.items()}
    )


def stage_job(
    bundle: Path, manifest: Manifest, stage: StageSpec, target: Target, recipe: EngineRecipe
) -> StageJob:
    """What one stage is built from and for."""
    return StageJob(
        stage=stage,
        graph=bundle / manifest.files[stage.name],
        precision=manifest.precision,
        float32_products=manifest.float32_products[stage.name],
        profiles=stage_profiles(manifest, stage, recipe.max_frame_size),
        architectures=target.architectures if target.ahead_of_time else (),
        workspace_mb=recipe.workspace_mb,
        level=recipe.level,
    )


def stage_profiles(
    manifest: Manifest, stage: StageSpec, max_frame_size: tuple[int, int]
) -> tuple[dict[str, Sizes], ...]:
    """Optimisation profiles: none where no size varies.

    Where the kept tokens come in, profile 0 is for the budget and profile 1 for a first frame, with
    every token, each exact. Masks have one, for frames from a pixel to the largest.
    """
    varying = {spec.name for spec in stage.inputs if -1 in spec.shape}
    start = manifest.pipeline.cold_start
    if not varying:
        return ()
    if start is not None and varying == {start.keep}:
        counts = (manifest.budgets[0], start.num_tokens)
        return tuple({start.keep: (count, count, count)} for count in counts)
    if varying == {"row_weights", "column_weights"}:
        (rows, columns) = max_frame_size
        usual_rows, usual_columns = map(min, _USUAL_FRAME_SIZE, max_frame_size)
        return (
            {
                "row_weights": (1, usual_rows, rows),
                "column_weights": (1, -(-usual_columns // 8), -(-columns // 8)),
            },
        )
    raise BundleError(
        f"the sizes of {sorted(varying)} of {stage.name} vary, and this version knows no range for "
        "them; export the bundle again"
    )


def export_option(precision: str) -> str:
    """What makes `vpp-deploy export` write graphs for GPUs in this precision."""
    return "--target gpu" if precision == "fp32" else f"--{precision}"


def _check_buildable(bundle: Path, manifest: Manifest, recipe: EngineRecipe) -> None:
    if manifest.engine is not None:
        raise BundleError(f"{bundle} holds engines; name the bundle that they were built from")
    if manifest.target != "gpu":
        raise BundleError(
            f"{bundle} was exported for the CPU, and engines are built from graphs for a GPU; "
            "export it with --target gpu, or with --fp16, which implies it"
        )
    if recipe.precision not in (None, manifest.precision):
        raise BundleError(
            f"{bundle} is in {manifest.precision}, and precision is in the graphs; export it with "
            f"{export_option(recipe.precision)}"
        )


def _timing_cache(trt: Any, folder: Path, target: Target) -> TimingCache | None:
    if target.backend != "tensorrt":
        return None
    (architecture,) = target.architectures
    return TimingCache(cache_file(folder.resolve().parent, trt.__version__, architecture))


def _engine_manifest(
    trt: Any,
    manifest: Manifest,
    folder: Path,
    target: Target,
    recipe: EngineRecipe,
    built: dict[str, BuiltStage],
) -> Manifest:
    files = {name: f"{name}.engine" for name in built}
    return dataclasses.replace(
        manifest,
        files=files,
        sha256={file: hash_file(folder / file) for file in files.values()},
        verification=None,
        engine=EngineBuild(
            backend=target.backend,
            version=trt.__version__,
            architectures=target.architectures,
            gpu=None if target.gpu is None or target.ahead_of_time else target.gpu.name,
            driver=None if target.gpu is None else target.gpu.driver,
            build_s={name: round(stage.build_s, 3) for name, stage in built.items()},
            layers={name: stage.layers for name, stage in built.items()},
            graphs_sha256={name: manifest.sha256[manifest.files[name]] for name in built},
            max_frame_size=recipe.max_frame_size,
        ),
    )

"""A bundle of graphs to a folder of engines, aside first and renamed when all is well."""

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import Any

from vpp_deploy.engines.builder import EngineBuilder, Watcher, supported
from vpp_deploy.engines.recipes import EngineRecipe
from vpp_deploy.errors import EngineError
from vpp_deploy.folders import staged_folder
from vpp_deploy.manifests import (
    EngineBuild,
    Manifest,
    hash_file,
    read_manifest,
    write_manifest,
)


@dataclasses.dataclass(frozen=True)
class BuildGpu:
    """The GPU that engines are built on.

    Attributes:
        name: as the driver gives it.
        architecture: compute capability, as "8.6".
        driver: its version.
    """

    name: str
    architecture: str
    driver: str


class BundleWatcher(Watcher):
    """Also told which stage is built."""

    def stage(self, name: str, number: int, count: int) -> None:
        """Stage `number` of `count`, from 1, begins."""


def build_engines(
    trt: Any,
    backend: str,
    bundle: Path,
    out: Path,
    recipe: EngineRecipe,
    gpu: BuildGpu | None,
    watcher: BundleWatcher,
) -> Manifest:
    """Builds every stage of `bundle` into `out`.

    Args:
        trt: the module of the backend.
        backend: "tensorrt" or "tensorrt-rtx".
        bundle: exported for GPUs.
        out: must not hold anything but older engines, which are replaced.
        recipe: `architectures` only for what is built ahead of time.
        gpu: of this machine; None where there is none.
        watcher: told how far the build is.

    Returns:
        The manifest of the engines.

    Raises:
        BundleError: `bundle` is none, or is damaged.
        EngineError: the bundle is not for GPUs, there is no GPU that the engines could be for, or
            TensorRT refuses.
        ExportError: `out` is taken or cannot be written.
    """
    manifest = read_manifest(bundle)
    architectures = _architectures(trt, backend, recipe, gpu)
    if manifest.engine is not None or manifest.target != "gpu":
        raise EngineError(
            f"{bundle} holds no graphs for GPUs; export it with --target gpu, --fp16 or --bf16"
        )
    ahead = recipe.architectures or (architectures if backend == "tensorrt-rtx" else ())
    recipe = dataclasses.replace(recipe, architectures=ahead)
    cache = None
    if backend == "tensorrt":
        version = f"{backend}-{trt.__version__}-sm{architectures[0].replace('.', '')}"
        cache = out.resolve().parent / f"{version}.timing"
        cache.parent.mkdir(parents=True, exist_ok=True)
    builder = EngineBuilder(trt, manifest, recipe, watcher, cache)
    stages = manifest.pipeline.stages
    with staged_folder(out) as staging:
        built = {}
        for number, stage in enumerate(stages, start=1):
            watcher.stage(stage.name, number, len(stages))
            one = builder.build(stage, bundle / manifest.files[stage.name])
            (staging / f"{stage.name}.engine").write_bytes(one.engine)
            built[stage.name] = dataclasses.replace(one, engine=memoryview(b""))
        files = {stage.name: f"{stage.name}.engine" for stage in stages}
        record = EngineBuild(
            backend=backend,
            version=trt.__version__,
            architectures=architectures,
            gpu=None if gpu is None or recipe.architectures else gpu.name,
            driver=None if gpu is None else gpu.driver,
            build_s={name: round(one.seconds, 2) for name, one in built.items()},
            layers={name: one.layers for name, one in built.items()},
            graphs_sha256={s.name: manifest.sha256[manifest.files[s.name]] for s in stages},
            max_frame_size=recipe.max_frame_size,
        )
        finished = dataclasses.replace(
            manifest,
            name=out.resolve().name,
            files=files,
            sha256={file: hash_file(staging / file) for file in files.values()},
            versions={**manifest.versions, "vpp-deploy": metadata.version("vpp-deploy")},
            engine=record,
        )
        write_manifest(staging, finished)
    return read_manifest(out)


def _architectures(
    trt: Any, backend: str, recipe: EngineRecipe, gpu: BuildGpu | None
) -> tuple[str, ...]:
    """What the engines will run on.

    Raises:
        EngineError: there is no GPU where one is needed, or the library has no such architecture.
    """
    known = supported(trt)
    if backend == "tensorrt":
        if recipe.architectures:
            raise EngineError(
                "TensorRT builds for the GPU of this machine; --sm is for --backend tensorrt-rtx"
            )
        if gpu is None:
            raise EngineError(
                "TensorRT builds on the GPU that the engines are for, and this machine has none; "
                "build ahead of time with --backend tensorrt-rtx --sm 86,89, or build there"
            )
        return (gpu.architecture,)
    wanted = recipe.architectures or (() if gpu is None else (gpu.architecture,))
    if not wanted:
        raise EngineError(
            "this machine has no GPU to build for; name architectures with --sm, as 86,89 (this "
            f"version of TensorRT for RTX has {', '.join(known)})"
        )
    missing = [architecture for architecture in wanted if architecture not in known]
    if missing:
        raise EngineError(
            f"TensorRT for RTX {trt.__version__} does not build for compute capability "
            f"{', '.join(missing)}; it has {', '.join(known)}"
        )
    return wanted

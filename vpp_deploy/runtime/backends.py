"""Who computes a bundle's or an engine's stages: which are asked for, which are here."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.manifests import Manifest
from vpp_deploy.runtime.cuda import CudaDevice
from vpp_deploy.runtime.device import StageExecutor
from vpp_deploy.runtime.device_runner import DeviceRunner
from vpp_deploy.runtime.onnx_runner import OnnxRunner
from vpp_deploy.runtime.onnx_stages import open_cuda_stages
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.tensorrt_stages import open_engines
from vpp_deploy.specs import BACKENDS

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""What the backends of engines are called in Python."""


def choose_backend(folder: Path, manifest: Manifest, asked: str | None) -> str:
    """The backend for a bundle or an engine.

    Args:
        folder: named in messages.
        manifest: of the folder.
        asked: one of `BACKENDS`, or None for the folder's own: an engine's, or ONNX Runtime on the
            CPU.

    Raises:
        BackendError: there is no such backend, or it cannot run this.
    """
    if asked is not None and asked not in BACKENDS:
        raise BackendError(f"unknown backend {asked!r}; there are {', '.join(BACKENDS)}")
    if manifest.engine is not None:
        own = manifest.engine.backend
        if asked not in (None, own):
            raise BackendError(
                f"{folder} holds engines for {own}, which {asked} cannot run; leave --backend out, "
                "or name the bundle that they were built from"
            )
        return own
    if asked in MODULES:
        raise BackendError(
            f"{folder} is a bundle, and {asked} runs engines; build one with `vpp-deploy "
            f"build-engine {folder} --backend {asked}` and run that"
        )
    if asked == "onnxruntime-cuda" and manifest.target != "gpu":
        raise BackendError(
            f"{folder} was exported for the CPU, and {asked} needs graphs for a GPU; export it "
            "with --target gpu, or with --fp16, which implies it"
        )
    return asked or "onnxruntime"


def open_runner(
    folder: Path,
    manifest: Manifest,
    backend: str,
    threads: int | None = None,
    profile_folder: Path | None = None,
    *,
    timed: bool = False,
) -> tuple[PipelineRunner, str]:
    """Loads a bundle or an engine.

    Args:
        folder: whose hashes `read_manifest` has checked.
        manifest: of that folder.
        backend: as `choose_backend` chose it.
        threads: of ONNX Runtime on the CPU; None: one per core.
        profile_folder: where ONNX Runtime's profiler writes on the CPU; None leaves it off.
        timed: a device's stages are waited for one by one, so that each one's time can be told.

    Returns:
        The runner, and for people to read who computes it.

    Raises:
        BackendError: a library, a driver or a GPU is missing.
        BundleError: ONNX Runtime cannot load a graph.
        EngineError: the engines are another version's, another GPU's, or damaged.
    """
    if backend == "onnxruntime":
        runner = OnnxRunner(folder, manifest, threads, profile_folder)
        return runner, "bundle on ONNX Runtime (cpu)"
    device = CudaDevice()
    executors: dict[str, StageExecutor] = {}
    if backend == "onnxruntime-cuda":
        executors |= open_cuda_stages(folder, manifest, device)
        kind = f"bundle on ONNX Runtime (cuda, {device.name})"
    else:
        from vpp_deploy.engines.loading import check_loadable

        trt = import_tensorrt(backend)
        check_loadable(manifest, trt.__version__, device.architecture)
        files = {stage: folder / name for stage, name in manifest.files.items()}
        executors |= open_engines(trt, files, manifest.pipeline, device)
        kind = f"engine on {backend} {trt.__version__} ({device.name})"
    initial = warm_up_values(manifest)
    return DeviceRunner(manifest.pipeline, device, executors, initial, timed=timed), kind


def import_tensorrt(backend: str) -> Any:
    """The module of a backend of engines. Classic TensorRT must not be used without a GPU.

    Raises:
        BackendError: it is not installed, or its libraries are not.
    """
    try:
        return import_module(MODULES[backend])
    except Exception as error:  # without its libraries, NVIDIA's package fails as it likes
        raise BackendError(
            f"{MODULES[backend]} cannot be imported ({' '.join(str(error).split())}); install "
            f"vpp-deploy[{backend}]"
        ) from error


def warm_up_values(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """What frames as large as the input would bring, for the warm-up of a `DeviceRunner`."""
    height, width = manifest.preprocessing.input_size
    values: dict[str, NDArray[Any]] = {
        "frame_sizes": np.tile(np.array([height, width]), (manifest.batch, 1))
    }
    if any(stage.name == "masks" for stage in manifest.pipeline.stages):
        if manifest.engine is not None:
            largest = manifest.engine.max_frame_size
            height, width = min(height, largest[0]), min(width, largest[1])
        sizes = {"row_weights": height, "column_weights": -(-width // 8)}
        for name, size in sizes.items():
            shape = manifest.pipeline.tensor(name).shape
            values[name] = np.zeros([size if s == -1 else s for s in shape], np.float32)
    return values

"""ONNX Runtime as the one who computes a device's stages, over bare addresses.

A session enqueues on the device's own stream and waits for nothing. ONNX Runtime cannot take part
in somebody else's capture (microsoft/onnxruntime#32081, open in 1.32), but captures and replays
each run for itself: `enable_cuda_graph`, with an id for each set of addresses (`gpu_graph_id`).
So a frame in mid-video is as many launches as it has stages.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpp_deploy.errors import BackendError, BundleError
from vpp_deploy.manifests import Manifest
from vpp_deploy.runtime.device import Device, DeviceTensor
from vpp_deploy.runtime.onnx_graphs import check_signature, one_line, output_shapes
from vpp_deploy.runtime.onnx_runner import import_onnxruntime
from vpp_deploy.runtime.tensors import Shape
from vpp_deploy.specs import StageSpec

PROVIDER = "CUDAExecutionProvider"

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16: NumPy has no such type
_NO_GRAPH = -1
_MAX_GRAPHS = 64
"""Of one session: beyond, where it keeps graphs of sizes long gone, it runs without."""


def open_cuda_stages(folder: Path, manifest: Manifest, device: Device) -> dict[str, "OnnxStage"]:
    """A session on CUDA for each stage of a bundle.

    Raises:
        BackendError: ONNX Runtime is missing, or has no CUDA that works here.
        BundleError: a graph cannot be loaded, or its tensors are not those of the manifest.
    """
    ort = import_onnxruntime("gpu")
    if PROVIDER not in ort.get_available_providers():
        raise BackendError(
            "this ONNX Runtime has no CUDA; `pip uninstall onnxruntime onnxruntime-gpu`, then "
            "install vpp-deploy[gpu]"
        )
    ort.preload_dlls(directory="")
    stages = {}
    for stage in manifest.pipeline.stages:
        session = _open(ort, folder / manifest.files[stage.name], stage, device)
        check_signature(session, stage)
        stages[stage.name] = OnnxStage(ort, session, stage, "cuda", graphs=True)
    return stages


def _open(ort: Any, path: Path, stage: StageSpec, device: Device) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not any(-1 in tensor.shape for tensor in stage.inputs):
        # Where sizes vary, ONNX Runtime puts what computes them on the CPU, which this would
        # forbid; there, `enable_cuda_graph` refuses everything else that is not on the GPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    cuda = {
        "device_id": "0",
        "user_compute_stream": str(device.stream),
        "enable_cuda_graph": "1",
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    try:
        session = ort.InferenceSession(str(path), options, providers=[(PROVIDER, cuda)])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise BundleError(f"ONNX Runtime cannot load {path} on CUDA: {one_line(error)}") from error
    # ONNX Runtime falls back without an error (microsoft/onnxruntime#23372).
    if session.get_providers()[:1] != [PROVIDER]:
        raise BackendError(
            f"asked for {PROVIDER}, got {', '.join(session.get_providers())}: CUDA's or cuDNN's "
            "libraries are missing; install vpp-deploy[gpu]"
        )
    return session


class OnnxStage:
    """A `StageExecutor` over a session."""

    def __init__(
        self, ort: Any, session: Any, stage: StageSpec, device_type: str, *, graphs: bool
    ) -> None:
        """Takes the session as it is.

        Args:
            ort: the module.
            session: of the stage's graph.
            stage: what the graph takes and gives.
            device_type: where the tensors lie, as ONNX Runtime calls it.
            graphs: it captures and replays its runs.
        """
        self._ort = ort
        self._session = session
        self._stage = stage
        self._device_type = device_type
        self._ids = itertools.count(1) if graphs else None

    def output_shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """As the graph says, see `onnx_runner.output_shapes`."""
        return output_shapes(self._session, self._stage, inputs)

    def bind(self, tensors: Mapping[str, DeviceTensor], *, cold: bool) -> "BoundOnnxStage":
        """Binds bare addresses. First frames are not captured: they are too rare."""
        binding = self._session.io_binding()
        for names, bind in (
            (self._stage.inputs, binding.bind_input),
            (self._stage.outputs, binding.bind_output),
        ):
            for name in [spec.name for spec in names]:
                tensor = tensors[name]
                dtype = _BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype)
                bind(name, self._device_type, 0, dtype, tensor.shape, tensor.pointer)
        graph_id = _NO_GRAPH
        if self._ids is not None and not cold:
            graph_id = next(self._ids)
        if graph_id > _MAX_GRAPHS:
            graph_id = _NO_GRAPH
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        return BoundOnnxStage(self._session, self._stage.name, binding, options, graph_id)


class BoundOnnxStage:
    """A `BoundStage` over a session's binding."""

    capturable = False

    def __init__(self, session: Any, name: str, binding: Any, options: Any, graph_id: int) -> None:
        self._session = session
        self._name = name
        self._binding = binding
        self._options = options
        self._graph_id = graph_id

    def enqueue(self) -> None:
        """Runs the session; at the second or third time it captures, from then on it replays.

        Raises:
            BackendError: ONNX Runtime fails.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except RuntimeError as error:
            raise BackendError(f"ONNX Runtime fails in {self._name}: {one_line(error)}") from error

    def release(self) -> None:
        """Lets go of the captured graph, which versions before 1.32 keep."""
        if self._graph_id != _NO_GRAPH and hasattr(self._session, "release_captured_graph"):
            self._session.release_captured_graph(self._graph_id)

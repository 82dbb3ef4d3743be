"""Runs a bundle's graphs in ONNX Runtime over buffers that are allocated once.

Every tensor of the pipeline has its place in memory from the start: outputs are bound to the
buffers that later stages read, the temporal state is double-buffered, and a frame allocates and
copies nothing but what `upload` brings in.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError, BundleError
from vpp_deploy.manifests import Manifest
from vpp_deploy.runtime.onnx_graphs import check_signature, one_line, output_shapes
from vpp_deploy.runtime.tensors import Shape, fits
from vpp_deploy.specs import PipelineSpec, StageSpec

_PROVIDER = "CPUExecutionProvider"

_DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
"""The fused kernel takes three times as long as Add and LayerNormalization (1.32, 10710 x 256)."""


class OnnxRunner:
    """A `PipelineRunner` over ONNX Runtime sessions on the CPU."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int | None = None,
        profile_folder: Path | None = None,
    ) -> None:
        """Loads every graph and binds every buffer.

        Args:
            folder: the bundle, whose hashes `read_manifest` has checked.
            manifest: of that bundle.
            threads: threads of one operator; None leaves it to ONNX Runtime (one per core).
            profile_folder: where ONNX Runtime's own profiler writes; None leaves it off, as it
                slows every operator down.

        Raises:
            BackendError: ONNX Runtime is not installed, or has no such numbers on the CPU.
            BundleError: a graph's tensors are not those of the manifest.
        """
        if manifest.precision == "bf16":
            raise BackendError(
                f"{folder} computes in bf16, which ONNX Runtime does not on the CPU; run it on a "
                "GPU, or export it with --fp16"
            )
        self.owner: object = None
        self._spec = manifest.pipeline
        self._batch = manifest.batch
        graphs = {stage.name: folder / manifest.files[stage.name] for stage in self._spec.stages}
        self._sessions = open_sessions(graphs, threads, profile_folder)
        for stage in self._spec.stages:
            check_signature(self._sessions[stage.name], stage)
        self._stages = {stage.name: stage for stage in self._spec.stages}
        self._parity = 0
        self._buffers = self._allocate()
        self._bindings: dict[tuple[str, int, bool], Any] = {}
        self._unbound: set[str] = set()
        for stage in self._spec.stages:
            if all(t.name in self._buffers for t in (*stage.inputs, *stage.outputs)):
                self._bind(stage)
            else:
                self._unbound.add(stage.name)

    @property
    def spec(self) -> PipelineSpec:
        """The bundle's pipeline."""
        return self._spec

    @property
    def asynchronous(self) -> bool:
        """No: `run` returns when the stage is done."""
        return False

    @property
    def batch(self) -> int:
        """Streams that the bundle was exported for."""
        return self._batch

    def upload(self, name: str, value: NDArray[Any]) -> None:
        """Copies into the buffer of `name`; shapes must agree, but for sizes that vary."""
        if name not in self._buffers or self._buffers[name][0].shape != value.shape:
            self._resize(name, value.shape)
        buffer = self._buffers[name][self._parity]
        if buffer.shape != value.shape:
            raise ValueError(f"{name} takes shape {buffer.shape}, got {value.shape}")
        np.copyto(buffer, value, casting="no")

    def run(self, stage: str, *, cold: bool = False) -> None:
        """Runs the stage over its bound buffers.

        Raises:
            BackendError: ONNX Runtime fails, for want of memory in most cases.
        """
        if stage in self._unbound:
            self._bind_resized(self._stages[stage])
        try:
            self._sessions[stage].run_with_iobinding(self._bindings[stage, self._parity, cold])
        except RuntimeError as error:
            raise BackendError(f"ONNX Runtime fails in {stage}: {one_line(error)}") from error

    def download(self, name: str) -> NDArray[Any]:
        """The buffer of `name` itself."""
        return self._buffers[name][self._parity]

    def advance(self) -> None:
        """Swaps the two buffers of every state edge."""
        self._parity = 1 - self._parity

    def end_profiling(self) -> dict[str, Path]:
        """Stage to the file of its profile, for a runner that was given a `profile_folder`."""
        return {stage: Path(session.end_profiling()) for stage, session in self._sessions.items()}

    def _allocate(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """A pair of buffers for each name, by parity: the same one twice, but for the state."""
        specs = {
            spec.name: spec
            for stage in self._spec.stages
            for spec in (*stage.inputs, *stage.outputs)
            if -1 not in spec.shape
        }
        buffers: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        for name, spec in specs.items():
            one = np.zeros(spec.shape, spec.dtype)
            buffers[name] = (one, one)
        for edge in self._spec.state:
            (even, _), (odd, _) = buffers[edge.input], buffers[edge.output]
            buffers[edge.input], buffers[edge.output] = (even, odd), (odd, even)
        return buffers

    def _resize(self, name: str, shape: Shape) -> None:
        """A buffer of another size for a tensor whose size varies."""
        spec = self._spec.tensor(name)
        if not fits(shape, spec.shape):
            raise ValueError(f"{name} takes shape {spec.shape}, got {shape}")
        self._buffers[name] = (np.zeros(shape, spec.dtype),) * 2
        self._unbound |= {s.name for s in self._spec.stages if name in [t.name for t in s.inputs]}

    def _bind_resized(self, stage: StageSpec) -> None:
        for spec in stage.inputs:
            if spec.name not in self._buffers:
                raise ValueError(f"{stage.name} needs {spec.name}, which has not been uploaded")
        inputs = {spec.name: self._buffers[spec.name][0].shape for spec in stage.inputs}
        shapes = output_shapes(self._sessions[stage.name], stage, inputs)
        for spec in stage.outputs:
            if -1 in spec.shape:
                self._buffers[spec.name] = (np.zeros(shapes[spec.name], spec.dtype),) * 2
        self._bind(stage)
        self._unbound.discard(stage.name)

    def _bind(self, stage: StageSpec) -> None:
        for parity in (0, 1):
            for cold in (False, True):
                self._bindings[stage.name, parity, cold] = self._binding(stage, parity, cold)

    def _binding(self, stage: StageSpec, parity: int, cold: bool) -> Any:
        binding = self._sessions[stage.name].io_binding()
        start = self._spec.cold_start
        for spec in stage.inputs:
            buffer = self._buffers[spec.name][parity]
            if cold and start is not None and spec.name == start.keep:
                everything = np.tile(np.arange(start.num_tokens), (self._batch, 1))
                # The binding holds a bare pointer: the array must live as long as the runner.
                buffer = self._buffers.setdefault(f"every {start.keep}", (everything,) * 2)[0]
            binding.bind_input(spec.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        for spec in stage.outputs:
            buffer = self._buffers[spec.name][parity]
            binding.bind_output(spec.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        return binding


def open_sessions(
    graphs: dict[str, Path],
    threads: int | None = None,
    profile_folder: Path | None = None,
) -> dict[str, Any]:
    """One ONNX Runtime session for each graph, on the CPU and nowhere else.

    With a `profile_folder`, each session's profiler is on and writes a file of its own there.

    Raises:
        BackendError: ONNX Runtime is not installed.
        BundleError: a graph cannot be loaded.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The graphs run one after the other, so one arena serves all of them; and planned ahead, every
    # tensor has a place of its own. Together that is half of the peak, at the same speed (1.32).
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    # Every graph has its own thread pool; left spinning after one stage, its threads take the
    # cores from the next (on 2 cores a frame takes 1.7 times as long).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    sessions: dict[str, Any] = {}
    for stage, path in graphs.items():
        if profile_folder is not None:
            # A stage's name comes from a file and may be no file name.
            options.profile_file_prefix = str(profile_folder / f"graph{len(sessions)}")
            options.enable_profiling = True
        try:
            session = ort.InferenceSession(
                str(path), options, providers=[_PROVIDER], disabled_optimizers=_DISABLED_OPTIMIZERS
            )
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise BundleError(f"ONNX Runtime cannot load {path}: {one_line(error)}") from error
        sessions[stage] = session
    return sessions


@cache
def _share_arena() -> None:
    """Gives this process one memory arena for all sessions that ask for it, once and for all."""
    ort = import_onnxruntime()
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
    unlimited, default = 0, -1
    arena = ort.OrtArenaCfg(unlimited, default, default, default)
    ort.create_and_register_allocator(memory, arena)


def import_onnxruntime(extra: str = "cpu") -> Any:
    """The module.

    Raises:
        BackendError: it is not installed; `extra` of this package would bring it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"ONNX Runtime is not installed; install vpp-deploy[{extra}]") from error
    except Exception as error:  # a broken installation fails as it likes
        raise BackendError(
            f"ONNX Runtime cannot be imported ({one_line(error)}); install vpp-deploy[{extra}] "
            "again"
        ) from error
    return onnxruntime

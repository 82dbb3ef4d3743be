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
from vpp_deploy.specs import PipelineSpec, StageSpec, TensorSpec

PROVIDERS = {"cpu": "CPUExecutionProvider"}

_DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
"""The fused kernel takes three times as long as Add and LayerNormalization (1.32, 10710 x 256)."""

_ORT_TYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
}


class OnnxRunner:
    """A `PipelineRunner` over ONNX Runtime sessions."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        provider: str = "cpu",
        threads: int | None = None,
        profile_folder: Path | None = None,
    ) -> None:
        """Loads every graph and binds every buffer.

        Args:
            folder: the bundle, whose hashes `read_manifest` has checked.
            manifest: of that bundle.
            provider: a key of `PROVIDERS`.
            threads: threads of one operator; None leaves it to ONNX Runtime (one per core).
            profile_folder: where ONNX Runtime's own profiler writes; None leaves it off, as it
                slows every operator down.

        Raises:
            BackendError: ONNX Runtime, or the provider asked for, is not available.
            BundleError: a graph's tensors are not those of the manifest.
        """
        self.owner: object = None
        self._spec = manifest.pipeline
        self._batch = manifest.batch
        graphs = {stage.name: folder / manifest.files[stage.name] for stage in self._spec.stages}
        self._sessions = open_sessions(graphs, provider, threads, profile_folder)
        for stage in self._spec.stages:
            _check_signature(self._sessions[stage.name], stage)
        self._parity = 0
        self._buffers = self._allocate()
        self._bindings = {
            (stage.name, parity, cold): self._bind(stage, parity, cold)
            for stage in self._spec.stages
            for parity in (0, 1)
            for cold in (False, True)
        }

    @property
    def spec(self) -> PipelineSpec:
        """The bundle's pipeline."""
        return self._spec

    @property
    def batch(self) -> int:
        """Streams that the bundle was exported for."""
        return self._batch

    def upload(self, name: str, value: NDArray[Any]) -> None:
        """Copies into the buffer of `name`; shapes must agree."""
        buffer = self._buffers[name][self._parity]
        if buffer.shape != value.shape:
            raise ValueError(f"{name} takes shape {buffer.shape}, got {value.shape}")
        np.copyto(buffer, value, casting="no")

    def run(self, stage: str, *, cold: bool = False) -> None:
        """Runs the stage over its bound buffers.

        Raises:
            BackendError: ONNX Runtime fails, for want of memory in most cases.
        """
        try:
            self._sessions[stage].run_with_iobinding(self._bindings[stage, self._parity, cold])
        except RuntimeError as error:
            raise BackendError(f"ONNX Runtime fails in {stage}: {_one_line(error)}") from error

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

    def _bind(self, stage: StageSpec, parity: int, cold: bool) -> Any:
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
    provider: str,
    threads: int | None = None,
    profile_folder: Path | None = None,
) -> dict[str, Any]:
    """One ONNX Runtime session for each graph, on the provider asked for and no other.

    With a `profile_folder`, each session's profiler is on and writes a file of its own there.

    Raises:
        BackendError: ONNX Runtime, or the provider asked for, is not available.
        BundleError: a graph cannot be loaded.
    """
    if provider not in PROVIDERS:
        raise BackendError(
            f"unknown provider {provider!r}; this version runs on {', '.join(PROVIDERS)} alone"
        )
    name = PROVIDERS[provider]
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
                str(path), options, providers=[name], disabled_optimizers=_DISABLED_OPTIMIZERS
            )
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise BundleError(f"ONNX Runtime cannot load {path}: {_one_line(error)}") from error
        # ONNX Runtime falls back without an error (microsoft/onnxruntime#23372).
        if session.get_providers() != [name]:
            raise BackendError(f"asked for {name}, got {', '.join(session.get_providers())}")
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


def import_onnxruntime() -> Any:
    """The module.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("ONNX Runtime is not installed; install vpp-deploy[cpu]") from error
    return onnxruntime


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_signature(session: Any, stage: StageSpec) -> None:
    def described(tensors: Any) -> list[TensorSpec]:
        return [
            TensorSpec(
                t.name,
                _ORT_TYPES.get(t.type, t.type),
                tuple(size if isinstance(size, int) else -1 for size in t.shape),
            )
            for t in tensors
        ]

    for kind, got, expected in (
        ("inputs", described(session.get_inputs()), stage.inputs),
        ("outputs", described(session.get_outputs()), stage.outputs),
    ):
        for a, b in zip(got, expected, strict=False):
            if a != b:
                raise BundleError(
                    f"{stage.name}: the graph's {kind} have {a}, the manifest says {b}; "
                    "export the bundle again"
                )
        if len(got) != len(expected):
            raise BundleError(
                f"{stage.name}: the graph has {len(got)} {kind}, the manifest {len(expected)}; "
                "export the bundle again"
            )

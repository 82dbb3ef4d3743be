"""One graph to one engine, by whichever of the two libraries is given."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vpp_deploy.engines.network import audit, one_line, parse, profiles
from vpp_deploy.engines.recipes import EngineRecipe
from vpp_deploy.errors import EngineError
from vpp_deploy.manifests import Manifest
from vpp_deploy.specs import StageSpec

_POLL_S = 0.1


class Watcher(Protocol):
    """Who is told how far a build is."""

    def phase(self, name: str, num_steps: int) -> None:
        """A phase begins; it ends when another one does, or at its last step."""
        ...

    def step(self, name: str, done: int) -> None:
        """So many steps of the phase are done."""
        ...


@dataclass(frozen=True)
class BuiltStage:
    """An engine, with what is to be said of it.

    Attributes:
        engine: serialised.
        layers: number of products, by the type that they give.
        seconds: that the build took.
    """

    engine: memoryview
    layers: dict[str, int]
    seconds: float


class EngineBuilder:
    """Builds the stages of one bundle, one after the other."""

    def __init__(
        self,
        trt: Any,
        manifest: Manifest,
        recipe: EngineRecipe,
        watcher: Watcher,
        timing_cache: Path | None = None,
    ) -> None:
        """Starts the library.

        Args:
            trt: the module `tensorrt` (10 or 11), which needs a GPU, or `tensorrt_rtx`.
            manifest: of the bundle.
            recipe: `architectures` are those to build for ahead of time.
            watcher: of every build.
            timing_cache: file that TensorRT's measurements of kernels are kept in; None for
                TensorRT for RTX, which measures nothing.
        """
        self._trt = trt
        self._manifest = manifest
        self._recipe = recipe
        self._watcher = watcher
        self._timing_cache = timing_cache
        self._log = _new_log(trt)
        self._builder = trt.Builder(self._log)

    def build(self, stage: StageSpec, graph: Path) -> BuiltStage:
        """Parses, audits and builds one stage.

        Raises:
            EngineError: TensorRT refuses the graph, or it computes in other numbers than asked for.
            KeyboardInterrupt: asked for while it builds; the library ends at its next step.
        """
        start = time.perf_counter()
        self._log.errors.clear()
        network, parser = parse(self._trt, self._builder, self._log, graph)
        layers = audit(self._trt, network, stage.name, self._manifest)
        config, cache = self._config(stage)
        plan = self._run(network, config)
        del parser
        if plan is None:
            reason = "; ".join(dict.fromkeys(self._log.errors)) or "no reason given"
            raise EngineError(f"TensorRT cannot build {stage.name}: {one_line(reason)}")
        if cache is not None and self._timing_cache is not None:
            self._timing_cache.write_bytes(cache.serialize())
        return BuiltStage(memoryview(plan), layers, time.perf_counter() - start)

    def _config(self, stage: StageSpec) -> tuple[Any, Any]:
        trt, recipe = self._trt, self._recipe
        config = self._builder.create_builder_config()
        # fp32 means fp32: TF32 would round every product's factors to 11 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if recipe.workspace_mb is not None:
            size = recipe.workspace_mb << 20
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
        if recipe.level is not None:
            config.builder_optimization_level = recipe.level
        if recipe.architectures:
            config.num_compute_capabilities = len(recipe.architectures)
            for index, architecture in enumerate(recipe.architectures):
                config.set_compute_capability(_capability(trt, architecture), index)
        for sizes in profiles(stage, self._manifest, recipe.max_frame_size):
            profile = self._builder.create_optimization_profile()
            for name, (low, usual, high) in sizes.items():
                profile.set_shape(name, low, usual, high)
            if config.add_optimization_profile(profile) < 0:
                raise EngineError(f"TensorRT refuses the sizes {sizes} of {stage.name}")
        cache = None
        if self._timing_cache is not None:
            known = self._timing_cache.read_bytes() if self._timing_cache.is_file() else b""
            cache = config.create_timing_cache(known)
            if not config.set_timing_cache(cache, False):
                raise EngineError(
                    f"{self._timing_cache} is not from this GPU and library; remove it"
                )
        return config, cache

    def _run(self, network: Any, config: Any) -> Any:
        """Builds in a thread, so that this one hears of an interruption."""
        monitor = _new_monitor(self._trt, self._watcher)
        config.progress_monitor = monitor
        result: list[Any] = []

        def work() -> None:
            result.append(self._builder.build_serialized_network(network, config))

        thread = threading.Thread(target=work, name="build-engine")
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL_S)
        except BaseException:
            monitor.stopped = True
            thread.join()
            raise
        return result[0] if result else None


def supported(trt: Any) -> tuple[str, ...]:
    """Compute capabilities that the library can build for ahead of time; none for TensorRT."""
    names = getattr(trt, "ComputeCapability", None)
    members = () if names is None else tuple(names.__members__)
    numbers = [name.removeprefix("SM") for name in members if name.startswith("SM")]
    return tuple(f"{number[:-1]}.{number[-1]}" for number in numbers)


def _capability(trt: Any, architecture: str) -> Any:
    return getattr(trt.ComputeCapability, f"SM{architecture.replace('.', '')}")


def _new_log(trt: Any) -> Any:
    """A logger that keeps errors, for the messages of ours, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            # Without a driver TensorRT for RTX asks it again and again, and builds all the same.
            serious = severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            if serious and "cudaError 35" not in message:
                self.errors.append(" ".join(message.split()))

    return Log()


def _new_monitor(trt: Any, watcher: Watcher) -> Any:
    """Tells the watcher of the outermost phases, and ends the build when it is stopped."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._shown: set[str] = set()
            self._roots: set[str] = set()

        def phase_start(self, name: str, parent: str | None, num_steps: int) -> None:
            if parent is None:
                self._roots.add(name)
            if parent is None or parent in self._roots:
                self._shown.add(name)
                watcher.phase(name, num_steps)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._shown:
                watcher.step(name, step + 1)
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            self._shown.discard(name)

    return Monitor()

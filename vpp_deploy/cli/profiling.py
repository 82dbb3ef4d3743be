"""`vpp-deploy profile`: how long each part of a model takes, for one model or several in turn."""

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vpp_deploy.cli.console import say, telling
from vpp_deploy.cli.opening import (
    BackendOption,
    ModelOptions,
    RecipeOption,
    RuleOption,
    SizeOption,
    ThreadsOption,
    is_checkpoint,
    open_model,
)
from vpp_deploy.cli.profiling_tables import print_report
from vpp_deploy.errors import BackendError, printable
from vpp_deploy.manifests import read_manifest
from vpp_deploy.profiling.feed import FrameFeed, SyntheticFeed, VideoFeed
from vpp_deploy.profiling.measure import Candidate
from vpp_deploy.profiling.page import render_page
from vpp_deploy.profiling.profiler import profile_models
from vpp_deploy.profiling.trace import trace_document
from vpp_deploy.profiling.writing import check_writable, write_aside
from vpp_deploy.runtime.onnx_runner import import_onnxruntime

_FRAME_SIZE = (720, 1280)
"""Of synthetic frames for checkpoints alone, which take frames of any size."""


def profile(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL", help="Bundles, engines or checkpoints, the baseline first."
        ),
    ],
    video: Annotated[
        Path | None,
        typer.Option(help="A video or a folder of images; default: a synthetic moving scene."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=1_000_000, help="Frames to time.")] = 30,
    warmup: Annotated[int, typer.Option(min=0, max=1000, help="Frames to step before.")] = 3,
    nodes: Annotated[
        bool, typer.Option(help="Find the slowest operations, in a second pass over 8 frames.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every sample as JSON.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of pictures and tables.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the second pass for chrome://tracing."),
    ] = None,
    backend: BackendOption = None,
    threads: ThreadsOption = None,
    rule: RuleOption = None,
    recipe: RecipeOption = None,
    size: SizeOption = None,
) -> None:
    """Time MODELs frame by frame in turn, on the same frames, and compare them with the first.

    Example: vpp-deploy profile export/dense-tiny export/tiny-40 --html profile.html
    """
    options = ModelOptions(backend, threads, rule, recipe, size)
    options.check(models)
    if trace is not None and not nodes:
        raise typer.BadParameter("--trace writes what --no-nodes leaves out; give one of them")
    inputs = [*models, *(path for path in (video, recipe) if path is not None)]
    _check_outputs([json_file, html, trace], inputs)
    feed = _feed(models, options, video)

    def candidate(path: Path, label: str) -> Candidate:
        return Candidate(
            label,
            printable(str(path)),
            lambda folder: open_model(
                path, options, feed.frame_size, folder, timed=folder is not None
            ),
        )

    if not all(map(is_checkpoint, models)):
        # Once for all, or it would count as the first model's loading; engines do without it.
        with contextlib.suppress(BackendError):
            import_onnxruntime()
    with telling("profiling") as progress:
        report = profile_models(
            [candidate(*pair) for pair in zip(models, _labels(models), strict=True)],
            feed,
            num_frames=frames,
            warmup=warmup,
            nodes=nodes,
            threads=threads,
            command=printable(shlex.join(["vpp-deploy", *sys.argv[1:]])),
            progress=progress,
        )
    # First the files: a terminal that has gone away must not cost an hour's measurements.
    if json_file is not None:
        write_aside(json_file, json.dumps(report.to_json(), allow_nan=False) + "\n")
    if html is not None:
        write_aside(html, render_page(report))
    if trace is not None:
        write_aside(trace, json.dumps(trace_document(report.passes), allow_nan=False) + "\n")
    print_report(report)
    written = [str(path) for path in (json_file, html, trace) if path is not None]
    if written:
        say(f"written: {', '.join(written)}")


def _check_outputs(outputs: list[Path | None], inputs: list[Path]) -> None:
    given = [path for path in outputs if path is not None]
    places = [path.resolve() for path in given]
    if len(set(places)) < len(places):
        raise typer.BadParameter("--json, --html and --trace must name different files")
    for path in inputs:
        source = path.resolve()
        if any(place == source or source in place.parents for place in places):
            raise typer.BadParameter(
                f"{path} would be overwritten by the profile, or lose what is in it; name another "
                "file"
            )
    for path in given:
        check_writable(path)


def _feed(models: list[Path], options: ModelOptions, video: Path | None) -> FrameFeed:
    """The video, or a scene as large as the input of the first bundle or of the checkpoints."""
    if video is not None:
        return VideoFeed(video)
    bundle = next((path for path in models if not is_checkpoint(path)), None)
    if bundle is not None:
        return SyntheticFeed(read_manifest(bundle).preprocessing.input_size)
    return SyntheticFeed(options.input_size or _FRAME_SIZE)


def _labels(models: list[Path]) -> list[str]:
    """Short names, made different by a number where they are equal."""
    names = [printable(path.resolve().name) for path in models]
    labels: list[str] = []
    for name in names:
        label, number = name, 1
        while label in labels or (label == name and names.count(name) > 1):
            label, number = f"{name} ({number})", number + 1
        labels.append(label)
    return labels

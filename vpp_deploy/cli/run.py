"""`vpp-deploy run`: a video through a model into an output folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vpp_deploy.cli.opening import (
    ModelOptions,
    ProviderOption,
    RecipeOption,
    RuleOption,
    SizeOption,
    ThreadsOption,
    describe,
    open_model,
)
from vpp_deploy.errors import BundleError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.job import run_video
from vpp_deploy.runtime.opening import OpenedModel, newest_model
from vpp_deploy.runtime.summary import RunSummary
from vpp_deploy.video.source import open_source


def run(
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    model: Annotated[
        Path | None,
        typer.Option(help="A bundle or a checkpoint; default: the newest in engines/ and export/."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: runs/VIDEO.")] = None,
    annotate: Annotated[bool, typer.Option(help="Also write annotated.mp4.")] = False,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    stop: Annotated[int | None, typer.Option(min=1, help="Frame to end before.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Take every Nth frame.")] = 1,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    rule: RuleOption = None,
    recipe: RecipeOption = None,
    size: SizeOption = None,
    exploration_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Add the published ranking noise to Map-SM, from this seed."),
    ] = None,
) -> None:
    """Run a model on VIDEO: results.json, frames.jsonl and summary.json in the output folder.

    Example: vpp-deploy run street.mp4 --model export/tiny-40 --annotate
    """
    if stop is not None and stop <= start:
        raise typer.BadParameter(f"--stop {stop} must be greater than --start {start}")
    path = newest_model() if model is None else model
    options = ModelOptions(provider, threads, rule, recipe, size)
    options.check([path])
    with open_source(video, start, stop, stride) as source:
        opened = open_model(path, options, source.frame_size)
        if opened.runner.batch != 1:
            raise BundleError(
                f"{path} steps {opened.runner.batch} streams together, this command runs one; "
                "export with input.batch = 1"
            )
        out = out or Path("runs") / video.resolve().stem
        session = opened.session(exploration_seed)
        print(describe(path, opened))
        with _Bar(source.num_frames) as bar:
            summary = run_video(
                opened, session, source, out, annotate=annotate, on_frame=bar.advance
            )
    _print_summary(summary, opened, out)


class _Bar:
    """Progress with frames per second and time left, from the first frame on."""

    def __init__(self, total: int | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("frames", total=total, rate="")

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, result: FrameResult) -> None:
        """One frame more."""
        self._progress.start()
        task = self._progress.tasks[0]
        rate = "" if task.speed is None else f"{task.speed:.2f} frames/s"
        self._progress.update(self._task, advance=1, rate=rate)


def _print_summary(summary: RunSummary, model: OpenedModel, out: Path) -> None:
    table = Table(title=escape(f"{summary.model} on {summary.video}, milliseconds"))
    for column in ("stage", "first frame", "p50", "p90", "max"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, row in summary.latency().items():
        values = (row[key] for key in ("first", "p50", "p90", "max"))
        table.add_row(stage, *("-" if v is None else f"{v:.1f}" for v in values))
    Console().print(table)
    found = ", ".join(f"{n} {name}" for name, n in summary.tracks_by_class.items()) or "none"
    print(f"{summary.frames} frames, {summary.tracks} tracks ({found}); results in {out}/")
    for note in summary.notes:
        typer.secho(f"note: {note}", err=True, fg="yellow")

"""`vpp-deploy run`: videos through a model into output folders."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vpp_deploy.cli.opening import (
    BackendOption,
    ModelOptions,
    RecipeOption,
    RuleOption,
    SizeOption,
    ThreadsOption,
    describe,
    is_checkpoint,
    open_model,
)
from vpp_deploy.cli.run_tables import print_one, print_several
from vpp_deploy.errors import RecipeError, VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.job import VideoJob, output_folders
from vpp_deploy.runtime.opening import OpenedModel, newest_model
from vpp_deploy.runtime.streams import run_videos
from vpp_deploy.video.source import VideoSource, open_source


def run(
    videos: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEO...",
            help="Video files, or folders of images; several for a model of several streams.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            help="A bundle, an engine or a checkpoint; default: the newest in engines/, export/."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder, of several videos the one that gets a folder for each; default: "
            "runs/VIDEO."
        ),
    ] = None,
    annotate: Annotated[bool, typer.Option(help="Also write annotated.mp4.")] = False,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    stop: Annotated[int | None, typer.Option(min=1, help="Frame to end before.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Take every Nth frame.")] = 1,
    backend: BackendOption = None,
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

    Several videos are stepped together, as many at a time as the model has streams (input.batch).

    Example: vpp-deploy run street.mp4 --model export/tiny-40 --annotate
    """
    if stop is not None and stop <= start:
        raise typer.BadParameter(f"--stop {stop} must be greater than --start {start}")
    path = newest_model() if model is None else model
    options = ModelOptions(backend, threads, rule, recipe, size)
    options.check([path])
    opening = partial(open_source, start=start, stop=stop, stride=stride)
    with opening(videos[0]) as first:
        counts = [first.num_frames] + [_count(video, opening) for video in videos[1:]]
        opened = open_model(path, options, first.frame_size)
        _check_streams(path, opened, len(videos))
        if len(videos) == 1:
            folders = [out or output_folders(videos, Path("runs"))[0]]
        else:
            folders = output_folders(videos, out or Path("runs"))
        jobs = [
            VideoJob(video, folder, partial(opening, video), annotate)
            for video, folder in zip(videos, folders, strict=True)
        ]
        jobs[0] = VideoJob(videos[0], folders[0], lambda: first, annotate)
        session = opened.session(exploration_seed)
        print(describe(path, opened))
        with _Bar(counts) as bar:
            summaries = run_videos(opened, session, jobs, on_frame=bar.advance)
    if len(videos) == 1:
        (summary,) = summaries
        if summary.ended_by is not None:
            raise VideoError(summary.ended_by)
        print_one(summary, folders[0])
    else:
        print_several(summaries, folders)
        failed = [str(v) for v, s in zip(videos, summaries, strict=True) if s.ended_by is not None]
        if failed:
            raise VideoError(f"{len(failed)} of {len(videos)} videos failed: {', '.join(failed)}")


def _count(video: Path, opening: Callable[[Path], VideoSource]) -> int | None:
    """How many frames a video promises.

    It is opened for that and closed again, so that what cannot be read is told before anything
    runs. A pipe can be opened once only, and is left alone.

    Raises:
        VideoError: it cannot be read.
    """
    if video.exists() and not video.is_file() and not video.is_dir():
        return None
    with opening(video) as source:
        return source.num_frames


def _check_streams(path: Path, model: OpenedModel, num_videos: int) -> None:
    """Refuses several videos for a model of one stream."""
    if num_videos > 1 and model.runner.batch == 1:
        how = "use --rule budgets with a recipe" if is_checkpoint(path) else "export with a recipe"
        raise RecipeError(
            f"{path} steps one stream, and {num_videos} videos were given; {how} whose input.batch "
            "is 2 or more, or run them one after another"
        )


class _Bar:
    """Progress over all videos, with frames per second and time left, from the first frame on."""

    def __init__(self, counts: Sequence[int | None]) -> None:
        """Takes how many frames each video promises, None where that is unknown."""
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
        known = [count for count in counts if count is not None]
        total = sum(known) if len(known) == len(counts) else None
        name = "frames" if len(counts) == 1 else f"frames of {len(counts)} videos"
        self._task = self._progress.add_task(name, total=total, rate="")

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

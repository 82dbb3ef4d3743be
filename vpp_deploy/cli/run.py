"""`vpp-deploy run`: videos through a model into output folders."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vpp_deploy.cli.console import answer, only_answers, say
from vpp_deploy.cli.opening import (
    BackendOption,
    ExplorationOption,
    ModelOptions,
    RecipeOption,
    RuleOption,
    SizeOption,
    ThreadsOption,
    describe,
    is_checkpoint,
    open_model,
)
from vpp_deploy.cli.progress import FramesBar
from vpp_deploy.cli.run_tables import print_one, print_several
from vpp_deploy.cli.signals import held
from vpp_deploy.cli.videos import VideoOptions, check_streams, live_options, num_frames
from vpp_deploy.errors import VideoError
from vpp_deploy.runtime.opening import newest_model
from vpp_deploy.runtime.stream import ResetPolicy
from vpp_deploy.runtime.streams import run_videos
from vpp_deploy.runtime.summary import RunSummary
from vpp_deploy.video.pictures import ANNOTATED, TOKENS
from vpp_deploy.video.source import LiveOptions

_LIVE = LiveOptions()


def run(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            help="Video files, folders of images, stream URLs or cameras (/dev/video0); several "
            "for a model of several streams.",
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
    annotate: Annotated[bool, typer.Option("--annotate", help="Also write annotated.mp4.")] = False,
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="Also write tokens.mp4: which patches ran in which blocks."),
    ] = False,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    stop: Annotated[int | None, typer.Option(min=1, help="Frame to end before.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Take every Nth frame.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run into this folder ended.")
    ] = False,
    scene_cuts: Annotated[
        bool, typer.Option(help="Forget state and tracks where a new scene begins.")
    ] = True,
    refresh_every: Annotated[
        int | None,
        typer.Option(min=1, help="Every so many frames, run all patches in blocks 1-2."),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(min=0.001, help="Live: drop frames that have waited for so many seconds."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1, help=f"Live: seconds without data that end a connection [{_LIVE.timeout_s:g}]."
        ),
    ] = None,
    reconnect: Annotated[
        float | None,
        typer.Option(
            min=0, help=f"Live: seconds to try for a lost connection [{_LIVE.reconnect_s:g}]."
        ),
    ] = None,
    backend: BackendOption = None,
    threads: ThreadsOption = None,
    rule: RuleOption = None,
    recipe: RecipeOption = None,
    size: SizeOption = None,
    exploration: ExplorationOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each video's summary as one line of JSON.")
    ] = False,
) -> None:
    """Run a model on VIDEO: frames.jsonl, results.json and summary.json in the output folder.

    Several videos are stepped together, as many at a time as the model has streams (input.batch).

    Example: vpp-deploy run street.mp4 --model export/tiny-40 --annotate
    """
    if stop is not None and stop <= start:
        raise typer.BadParameter(f"--stop {stop} must be greater than --start {start}")
    if as_json:
        only_answers()
    live, live_only = live_options(videos, max_latency, timeout, reconnect)
    pictures = (ANNOTATED,) * annotate + (TOKENS,) * tokens
    video_options = VideoOptions(start, stop, stride, live, live_only, pictures, resume)
    path = newest_model() if model is None else model
    options = ModelOptions(backend, threads, rule, recipe, size)
    options.check([path])
    with video_options.open(videos[0]) as first:
        total = num_frames(videos, first, video_options)
        opened = open_model(path, options, first.frame_size)
        check_streams(path, opened.runner.batch, len(videos), is_checkpoint=is_checkpoint(path))
        jobs = video_options.jobs(videos, out, first)
        resets = ResetPolicy(scene_cuts, refresh_every)
        session = opened.session(opened.explored_by(exploration), resets, tokens=tokens)
        say(describe(path, opened, session))
        with FramesBar(total, len(videos)) as bar:
            summaries = run_videos(
                opened,
                session,
                jobs,
                on_frame=bar.advance,
                on_resume=bar.pass_over,
                whole=held,
            )
    _report(summaries, [job.out for job in jobs], as_json=as_json)
    failed = [summary for summary in summaries if summary.ended_by is not None]
    if failed and len(videos) == 1:
        raise VideoError(str(failed[0].ended_by))
    if failed:
        named = ", ".join(summary.video for summary in failed)
        raise VideoError(f"{len(failed)} of {len(videos)} videos failed: {named}")


def _report(summaries: list[RunSummary], folders: list[Path], *, as_json: bool) -> None:
    if as_json:
        for summary, folder in zip(summaries, folders, strict=True):
            answer(json.dumps({"out": str(folder), **asdict(summary)}))
    elif len(summaries) > 1:
        print_several(summaries, folders)
    elif summaries[0].ended_by is None:
        print_one(summaries[0], folders[0])

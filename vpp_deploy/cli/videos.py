"""The videos that a command is given: what they are, and where their results go."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from vpp_deploy.errors import RecipeError, VideoError
from vpp_deploy.runtime.job import VideoJob, output_folders
from vpp_deploy.video.live_address import live_address
from vpp_deploy.video.source import LiveOptions, VideoSource, open_source


@dataclass(frozen=True)
class VideoOptions:
    """What the command line says of its videos, and what is to come of them.

    Attributes:
        start, stop, stride: of the frames of each.
        live: how live input is waited for.
        live_only: what was said of that, and is for nothing else.
        pictures: videos to write for each.
        resume: go on with earlier runs.
    """

    start: int
    stop: int | None
    stride: int
    live: LiveOptions
    live_only: tuple[str, ...]
    pictures: tuple[str, ...]
    resume: bool

    def open(self, video: str, first: int | None = None) -> VideoSource:
        """Opens a video at its first frame, or at another.

        Raises:
            VideoError: it cannot be read, or has an end, and options are for live input.
        """
        start = self.start if first is None else first
        source = open_source(video, start, self.stop, self.stride, live=self.live)
        if self.live_only and live_address(video) and not source.live:
            source.close()
            raise VideoError(
                f"{source.name} states its end, so it is read like a file; {self.live_only[0]} is "
                "for live input: leave it out"
            )
        return source

    def jobs(self, videos: Sequence[str], out: Path | None, opened: VideoSource) -> list[VideoJob]:
        """What to run, the first video being `opened` at its first frame."""
        names = [_folder_name(video) for video in videos]
        if len(videos) == 1:
            folders = [out or output_folders(names, Path("runs"))[0]]
        else:
            folders = output_folders(names, out or Path("runs"))
        jobs = []
        for number, (video, folder) in enumerate(zip(videos, folders, strict=True)):
            address = live_address(video)
            job = VideoJob(
                path=Path(video) if address is None else None,
                name=Path(video).resolve().name if address is None else address.shown,
                out=folder,
                open_video=partial(self._open, video, opened if number == 0 else None),
                pictures=self.pictures,
                start=self.start,
                stop=self.stop,
                stride=self.stride,
                resume=self.resume,
            )
            jobs.append(job)
        return jobs

    def _open(self, video: str, opened: VideoSource | None, first: int | None) -> VideoSource:
        # A pipe can be opened once only, so what was opened for a look is used.
        return opened if opened is not None and first is None else self.open(video, first)


def live_options(
    videos: Sequence[str],
    max_latency: float | None,
    timeout: float | None,
    reconnect: float | None,
) -> tuple[LiveOptions, tuple[str, ...]]:
    """What was given, with the defaults of what was not, and the names of what only live input has.

    Raises:
        typer.BadParameter: something was given, and none of the videos is live, or it is no time.
    """
    given = {
        "--max-latency": ("max_latency_s", max_latency),
        "--timeout": ("timeout_s", timeout),
        "--reconnect": ("reconnect_s", reconnect),
    }
    options = {}
    for option, (name, value) in given.items():
        if value is None:
            continue
        if not any(live_address(video) for video in videos):
            raise typer.BadParameter(f"{option} is for URLs and cameras, and {videos[0]} is none")
        if not math.isfinite(value):
            raise typer.BadParameter(f"{option} is {value}, expected a number of seconds")
        options[name] = value
    only = (("--max-latency", max_latency), ("--reconnect", reconnect))
    return LiveOptions(**options), tuple(name for name, value in only if value is not None)


def num_frames(videos: Sequence[str], first: VideoSource, options: VideoOptions) -> int | None:
    """How many frames all of them promise, None where one does not say.

    Each is opened for that and closed again, so that what cannot be read is told before anything
    runs. A pipe or a stream is left alone: it can be opened once only.

    Args:
        videos: the first of them being open as `first`.
        first: that one.
        options: how they are read.

    Raises:
        VideoError: one cannot be read.
    """
    counts = [first.num_frames]
    for video in videos[1:]:
        path = Path(video)
        if live_address(video) or (path.exists() and not path.is_file() and not path.is_dir()):
            counts.append(None)
        else:
            with options.open(video) as source:
                counts.append(source.num_frames)
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def check_streams(model: Path, streams: int, num_videos: int, *, is_checkpoint: bool) -> None:
    """Refuses several videos for a model of one stream.

    Raises:
        RecipeError: naming what would take several.
    """
    if num_videos > 1 and streams == 1:
        how = "use --rule budgets with a recipe" if is_checkpoint else "export with a recipe"
        raise RecipeError(
            f"{model} steps one stream, and {num_videos} videos were given; {how} whose "
            "input.batch is 2 or more, or run them one after another"
        )


def _folder_name(video: str) -> str:
    address = live_address(video)
    if address is None:
        return Path(video).resolve().stem.strip(".") or "video"
    return re.sub(r"[^\w.-]+", "-", address.shown).strip("-.")

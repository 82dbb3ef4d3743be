"""How far a run is."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vpp_deploy.cli.console import progress_console
from vpp_deploy.results import FrameResult


class FramesBar:
    """Progress over all videos, with frames per second and time left, from the first frame on."""

    def __init__(self, total: int | None, num_videos: int) -> None:
        """Takes how many frames the videos promise, None where that is unknown."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=progress_console(),
        )
        name = "frames" if num_videos == 1 else f"frames of {num_videos} videos"
        self._task = self._progress.add_task(name, total=total, rate="")

    def __enter__(self) -> "FramesBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:  # stopping another one leaves an empty line
            self._progress.stop()

    def pass_over(self, frames: int) -> None:
        """So many frames were done before."""
        self._progress.update(self._task, advance=frames)

    def advance(self, result: FrameResult) -> None:
        """One frame more."""
        self._progress.start()
        task = self._progress.tasks[0]
        rate = "" if task.speed is None else f"{task.speed:.2f} frames/s"
        self._progress.update(self._task, advance=1, rate=rate)

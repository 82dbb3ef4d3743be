"""What a run is asked to do with one video, and where its results go."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpp_deploy.errors import VideoError
from vpp_deploy.folders import is_bundle
from vpp_deploy.runtime.run_files import FRAMES, RESULTS, files_of, remove
from vpp_deploy.runtime.saved_state import STATE_NAME
from vpp_deploy.video.source import VideoSource


@dataclass(frozen=True)
class VideoJob:
    """A video to be run.

    Attributes:
        path: of the video; None for a URL or a camera.
        name: of the video, for people to read.
        out: folder for its results, no other job's.
        open_video: opens it, with the number of the first frame to give, None for the one where the
            run begins; called once, when a stream is free for it.
        pictures: videos to write as well, of `ANNOTATED` and `TOKENS`.
        start, stop, stride: of the frames, as `open_source` takes them.
        resume: go on with what an earlier run left in `out`, if it left anything.
    """

    path: Path | None
    name: str
    out: Path
    open_video: Callable[[int | None], VideoSource]
    pictures: tuple[str, ...] = ()
    start: int = 0
    stop: int | None = None
    stride: int = 1
    resume: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether there is something to resume, or results that must not be lost in trying to."""
        lines = self.out / FRAMES
        return self.resume and (
            (self.out / STATE_NAME).exists() or (lines.is_file() and lines.stat().st_size > 0)
        )


def output_folders(names: Sequence[str], base: Path) -> list[Path]:
    """A folder in `base` for each video, by its name; those of equal names get -2, -3, ..."""
    taken: set[str] = set()
    folders = []
    for stem in names:
        name = stem
        number = 1
        while name.casefold() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        folders.append(base / name)
    return folders


def check_folders(outs: Iterable[Path]) -> None:
    """Refuses folders for results that are a model's, before anything is written into them.

    Raises:
        VideoError: one is a bundle or an engine, or lies within one.
    """
    for out in map(Path.resolve, outs):
        for folder in (out, *out.parents):
            if is_bundle(folder):
                raise VideoError(
                    f"{folder} holds a bundle or an engine, which is to have nothing else in it; "
                    "choose another --out"
                )


def prepare_folders(jobs: Sequence[VideoJob]) -> None:
    """Removes results of an earlier run, which is not to be resumed, from the output folders.

    Raises:
        VideoError: a file cannot be removed, or one of the videos or results of another origin
            would be overwritten.
    """
    files = {path.resolve() for job in jobs for path in files_of(job.out)}
    for job in jobs:
        if job.path is not None and job.path.resolve() in files:
            raise VideoError(
                f"{job.path} would be overwritten by the results; choose another --out"
            )
        if (job.out / RESULTS).exists() and not (job.out / FRAMES).exists():
            raise VideoError(
                f"{job.out / RESULTS} is of no run, for it has no {FRAMES} beside it, and would be "
                "overwritten; choose another --out"
            )
    for job in jobs:
        remove(() if job.goes_on else files_of(job.out))

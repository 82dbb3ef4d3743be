"""The folder of one video of a run: who may write there, and what is written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vpp_deploy.errors import ResumeError, VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.saved_state import STATE_NAME
from vpp_deploy.video.closing import Closing
from vpp_deploy.video.frames_jsonl import (
    Extent,
    FramesJsonl,
    Line,
    read_frames,
    tokens_of,
    tracks_of,
)
from vpp_deploy.video.pictures import Pictures, written_by
from vpp_deploy.video.results_json import write_results
from vpp_deploy.video.source import Frame

FRAMES, RESULTS, SUMMARY = "frames.jsonl", "results.json", "summary.json"

_LOCK = ".lock"


@contextmanager
def locked(folders: Sequence[Path]) -> Iterator[None]:
    """Makes the folders and keeps other processes from writing into them.

    Raises:
        VideoError: a folder cannot be written, or another process is writing into it.
    """
    with ExitStack() as locks:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                locks.enter_context(FileLock(folder / _LOCK, timeout=0))
            except Timeout as error:
                raise VideoError(
                    f"another run is writing into {folder}; wait for it, or choose another --out"
                ) from error
            except OSError as error:
                raise VideoError(
                    f"cannot write into {folder}: {error.strerror}; choose another --out"
                ) from error
        yield


def files_of(folder: Path) -> list[Path]:
    """What a run writes into its folder, whether it is there or not."""
    # The lines, which tell that the others are a run's, last.
    names = (RESULTS, SUMMARY, STATE_NAME)
    return [*(folder / name for name in names), *written_by(folder), folder / FRAMES]


def remove(files: Iterable[Path]) -> None:
    """Removes files of an earlier run.

    Raises:
        VideoError: one cannot be removed.
    """
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise VideoError(
                f"cannot remove {file}: {error.strerror}; choose another --out"
            ) from error


class RunFiles(Closing):
    """frames.jsonl, the videos that show it, and results.json, which is made from it.

    Raises:
        VideoError: a file cannot be written.
        ResumeError: an earlier run's frames.jsonl is not as it left it.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        fps: float,
        pictures: Sequence[str] = (),
        kept: Extent | None = None,
    ) -> None:
        """Opens the files.

        Args:
            folder: theirs.
            classes: class names by label.
            fps: of the videos.
            pictures: which of them to write, of `ANNOTATED` and `TOKENS`.
            kept: of an earlier run's frames.jsonl, to be gone on with.
        """
        self._folder = folder
        self._lines = FramesJsonl(folder / FRAMES, classes, kept)
        try:
            remove([folder / RESULTS, folder / SUMMARY, *written_by(folder, pictures)])
        except VideoError:
            self._lines.close()
            raise
        self._pictures = Pictures(folder, fps, classes, pictures)
        self._redraws = bool(pictures)

    @property
    def extent(self) -> Extent:
        """Of frames.jsonl, once it has a line."""
        return self._lines.extent

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Writes a frame. Its line comes last: once it is there, the frame is done."""
        self._pictures.write(frame.rgb, result.tracks, result.tokens)
        self._lines.write(result)

    def go_on(self, frames: Iterator[Frame], count: Callable[[Line], None]) -> None:
        """Passes over what an earlier run did.

        Args:
            frames: from the first frame on if there are videos to be drawn again, else from the
                last one that was done.
            count: told of every line.

        Raises:
            ResumeError: the frames are not those of frames.jsonl.
        """
        line: Line | None = None
        for line in read_frames(self._folder / FRAMES):  # all, before drawing can be interrupted
            count(line)
        if self._redraws:
            for line in read_frames(self._folder / FRAMES):
                frame = _same(next(frames, None), line)
                self._pictures.write(frame.rgb, tracks_of(line), tokens_of(line))
        elif line is not None:
            _same(next(frames, None), line)

    def write_results(self) -> None:
        """Writes results.json."""
        write_results(self._folder / FRAMES, self._folder / RESULTS)

    def close(self) -> None:
        """Completes frames.jsonl and the videos; closing twice is allowed."""
        try:
            self._lines.close()
        finally:
            self._pictures.close()


def _same(frame: Frame | None, line: Line) -> Frame:
    if frame is None or frame.index != line["index"]:
        got = "ends" if frame is None else f"goes on with frame {frame.index}"
        raise ResumeError(f"the video {got} where frame {line['index']} was")
    return frame

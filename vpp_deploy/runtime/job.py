"""One video of a run: its source, its files and its summary, from its first frame to its end."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vpp_deploy.errors import VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.summary import RunSummary, RunTally
from vpp_deploy.video.draw import draw_tracks
from vpp_deploy.video.results_json import FramesJsonl, ResultsJson, encode_masks
from vpp_deploy.video.source import Frame, VideoSource
from vpp_deploy.video.writer import VideoWriter

_FILES = ("results.json", "frames.jsonl", "summary.json", "annotated.mp4")
_FOLDER_FPS = 25.0  # of an annotated video made from images, which have no rate of their own


@dataclass(frozen=True)
class VideoJob:
    """A video to be run.

    Attributes:
        path: of the video.
        out: folder for its results, no other job's.
        open_video: opens it; called once, when a stream is free for it.
        annotate: also write annotated.mp4.
    """

    path: Path
    out: Path
    open_video: Callable[[], VideoSource]
    annotate: bool = False


def output_folders(videos: Sequence[Path], base: Path) -> list[Path]:
    """A folder in `base` for each video, by its name; those of equal names get -2, -3, ..."""
    taken: set[str] = set()
    folders = []
    for video in videos:
        stem = name = video.resolve().stem
        number = 1
        while name.casefold() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        folders.append(base / name)
    return folders


def prepare_folders(jobs: Sequence[VideoJob]) -> None:
    """Makes the output folders and removes results of an earlier run from them.

    Raises:
        VideoError: a folder cannot be written, or one of the videos would be overwritten.
    """
    files = {(job.out / name).resolve() for job in jobs for name in _FILES}
    for job in jobs:
        if job.path.resolve() in files:
            raise VideoError(
                f"{job.path} would be overwritten by the results; choose another --out"
            )
    for job in jobs:
        try:
            job.out.mkdir(parents=True, exist_ok=True)
            for name in _FILES:
                (job.out / name).unlink(missing_ok=True)
        except OSError as error:
            raise VideoError(
                f"cannot write into {job.out}: {error.strerror}; choose another --out"
            ) from error


class VideoRun:
    """One video being run.

    What fails of its own, its source or its files, ends it: that is not raised, `summary.ended_by`
    tells it. Whatever ends it, its files hold every frame that was done.

    Attributes:
        job: what was asked for.
    """

    def __init__(self, job: VideoJob, model: OpenedModel, notes: Sequence[str] = ()) -> None:
        """Opens nothing yet.

        Args:
            job: what to run; its folder is prepared.
            model: what runs on it.
            notes: what the summary's reader should know beforehand.
        """
        self.job = job
        self._model = model
        self._notes = list(notes)
        self._tally = RunTally(model.classes, model.runner.batch)
        self._summary: RunSummary | None = None
        self._opened = ExitStack()
        self._source: VideoSource | None = None
        self._frames: Iterator[Frame] = iter(())
        self._sinks: list[FramesJsonl | ResultsJson] = []
        self._video: VideoWriter | None = None
        self._decode_ms = 0.0

    @property
    def summary(self) -> RunSummary | None:
        """Of all that was done, once it has ended."""
        return self._summary

    def begin(self, session: VideoSession) -> None:
        """Opens the video and its files; `session` says how it sees such frames."""
        with self._own_failures():
            job, model, enter = self.job, self._model, self._opened.enter_context
            self._source = source = enter(job.open_video())
            if not session.plan(source.frame_size).published:
                (height, width), (input_h, input_w) = source.frame_size, session.input_size
                self._notes.append(
                    f"frames of {width}x{height} are letterboxed into {input_w}x{input_h}, which "
                    "is not the published preprocessing; export with --like VIDEO for this video"
                )
            self._sinks.append(enter(FramesJsonl(job.out / "frames.jsonl", model.classes)))
            self._sinks.append(enter(ResultsJson(job.out / "results.json")))
            if job.annotate:
                fps = (source.fps or _FOLDER_FPS) / source.stride
                writer = VideoWriter(job.out / "annotated.mp4", fps, source.frame_size)
                self._video = enter(writer)
            self._frames = iter(source)

    def read(self) -> Frame | None:
        """The next frame; None when the video has ended."""
        with self._own_failures():
            start = time.perf_counter()
            frame = next(self._frames, None)
            self._decode_ms = (time.perf_counter() - start) * 1e3
            if frame is not None:
                return frame
            if self._source is not None and self._source.truncated:
                raise VideoError(
                    f"{self.job.path} ends early: it is truncated or damaged, or its header "
                    f"promises more than it holds; its {self._tally.frames} readable frames are "
                    f"done, see {self.job.out}"
                )
            self.end()
        return None

    def write(self, frame: Frame, result: FrameResult, step_ms: float) -> None:
        """Writes what came of the frame that was read last, from a step of `step_ms`."""
        with self._own_failures():
            start = time.perf_counter()
            rles = encode_masks(result.tracks.masks)
            for sink in self._sinks:
                sink.write(result, rles)
            if self._video is not None:
                self._video.write(draw_tracks(frame.rgb, result.tracks, self._model.classes))
            output_ms = (time.perf_counter() - start) * 1e3
            self._tally.add(result, self._decode_ms, step_ms, output_ms)

    def end(self, error: BaseException | None = None) -> None:
        """Completes the files; `error` is what ended it early. Ending twice is allowed."""
        if self._summary is not None:
            return
        try:
            self._opened.close()
        except BaseException as failure:
            error = error or failure
            if not isinstance(failure, VideoError):
                raise
        finally:
            self._summarise(error)

    def _summarise(self, error: BaseException | None) -> None:
        ended_by = None
        if error is not None:
            ended_by = str(error) if isinstance(error, Exception) else "interruption"
        tally = self._tally
        self._summary = RunSummary(
            model=self._model.name,
            kind=self._model.kind,
            video=self.job.path.name,
            streams=self._model.runner.batch,
            ended_by=ended_by,
            frames=tally.frames,
            tracks=tally.tracks,
            tracks_by_class=tally.tracks_by_class(),
            tracks_dropped=tally.tracks_dropped,
            latency_ms=tally.latency(),
            notes=self._notes + _notes(self._source, tally),
        )
        try:
            self._summary.write(self.job.out / "summary.json")
        except VideoError as failure:
            if ended_by is None:
                self._summary = dataclasses.replace(self._summary, ended_by=str(failure))

    @contextmanager
    def _own_failures(self) -> Iterator[None]:
        try:
            yield
        except VideoError as error:
            self.end(error)


def _notes(source: VideoSource | None, tally: RunTally) -> list[str]:
    notes = []
    if source is not None and source.frames_skipped_corrupt:
        notes.append(f"{source.frames_skipped_corrupt} corrupt packets or images were skipped")
    if source is not None and source.frames_damaged:
        notes.append(f"{source.frames_damaged} frames were decoded with visible damage")
    if tally.tracks_dropped:
        notes.append(
            f"{tally.tracks_dropped} tracks were forgotten because every track slot was taken; "
            "export with more tracks.slots"
        )
    return notes

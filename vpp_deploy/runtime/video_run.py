"""One video being run: its source, its files and its summary, from its first frame to its end."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from vpp_deploy.errors import ResumeError, VideoError, VppDeployError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.job import VideoJob
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.run_files import SUMMARY, RunFiles
from vpp_deploy.runtime.saved_state import (
    RunIdentity,
    SavedRun,
    StateKeeper,
    fingerprint,
    read_saved,
)
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.summary import RunSummary, RunTally
from vpp_deploy.video.pictures import written_by
from vpp_deploy.video.source import Frame, VideoSource

_FOLDER_FPS = 25.0  # of videos made from images, which have no rate of their own
_NAMED = 10  # of the dropped tracks, in the note, and of the frame sizes of live input


class VideoRun:
    """One video being run.

    What fails of its own, its source or its files, ends it: that is not raised, `summary.ended_by`
    tells it. Whatever ends it, its files hold every frame that was done.

    Attributes:
        job: what was asked for.
    """

    def __init__(
        self,
        job: VideoJob,
        model: OpenedModel,
        choices: dict[str, Any],
        notes: Sequence[str] = (),
    ) -> None:
        """Opens nothing yet.

        Args:
            job: what to run; its folder is prepared.
            model: what runs on it.
            choices: of the session, for the summary.
            notes: what the summary's reader should know beforehand.
        """
        self.job = job
        self._model = model
        self._choices = choices
        self._notes = list(notes)
        self._tally = RunTally(model.classes, model.runner.batch)
        self._summary: RunSummary | None = None
        self._opened = ExitStack()
        self._source: VideoSource | None = None
        self._frames: Iterator[Frame] = iter(())
        self._files: RunFiles | None = None
        self._keeper: StateKeeper | None = None
        self._session: VideoSession | None = None
        self._sizes: set[tuple[int, int]] = set()
        self._skipped_before = 0
        self._in_step = False
        self._decode_ms = 0.0

    @property
    def resumed_at(self) -> int:
        """How many frames an earlier run had done."""
        return self._tally.resumed_at

    @property
    def summary(self) -> RunSummary | None:
        """Of all that was done, once it has ended."""
        return self._summary

    def begin(self, session: VideoSession, stream: int) -> None:
        """Opens the video and its files, for this stream of the session."""
        with self._own_failures():
            job = self.job
            identity = self._identity(session)
            saved = self._saved(identity)
            redraws = bool(job.pictures)
            first = None if saved is None or redraws else saved.index
            if saved is not None and job.stop is not None and job.stop <= saved.index:
                raise ResumeError(
                    f"frame {saved.index} was done, and --stop {job.stop} ends before it"
                )
            self._source = source = self._opened.enter_context(job.open_video(first))
            self._frames = iter(source)
            self._session = session
            self._note_size(source.frame_size)
            if saved is not None:
                session.restore(saved.stream, stream)
            fps = (source.fps or _FOLDER_FPS) / source.stride
            kept = None if saved is None else saved.lines
            files = RunFiles(job.out, self._model.classes, fps, job.pictures, kept)
            self._files = self._opened.enter_context(files)
            if saved is not None:
                files.go_on(self._frames, self._tally.recount)
                if not redraws:
                    passed = len(range(job.start, saved.index + 1, job.stride))
                    self._skipped_before = passed - self._tally.frames
            if identity is not None:
                self._keeper = StateKeeper(job.out, identity, lambda: session.save(stream))

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
                    f"{self.job.name} ends early: it is truncated or damaged, or its header "
                    f"promises more than it holds; its {self._tally.frames} readable frames are "
                    f"done, see {self.job.out}"
                )
            self.end()
        return None

    def stepping(self) -> None:
        """The frame that was read last is being stepped: until it is written, nothing is saved."""
        self._in_step = True

    def write(self, frame: Frame, result: FrameResult, step_ms: float) -> bool:
        """Writes what came of the frame that was read last, from a step of `step_ms`.

        Returns:
            Whether that went well.
        """
        with self._own_failures():
            assert self._files is not None
            start = time.perf_counter()
            self._files.write(frame, result)
            self._in_step = False
            self._note_size((frame.rgb.shape[0], frame.rgb.shape[1]))
            try:
                if self._keeper is not None:
                    self._keeper.frame_done(frame.index, self._files.extent)
            finally:  # the frame is written, whether its state is saved or not
                output_ms = (time.perf_counter() - start) * 1e3
                self._tally.add(result, self._decode_ms, step_ms, output_ms)
        return self._summary is None

    def end(self, error: BaseException | None = None) -> None:
        """Completes the files; `error` is what ended it early. Ending twice is allowed."""
        if self._summary is not None:
            return
        unexpected: BaseException | None = None
        try:
            for finish in (self._save_state, self._opened.close, self._write_results):
                try:
                    finish()
                except BaseException as failure:  # the others are finished all the same
                    error = error or failure  # the first says why
                    if not isinstance(failure, VppDeployError):
                        unexpected = unexpected or failure
        finally:
            self._summarise(error)
        if unexpected is not None:
            raise unexpected

    def _note_size(self, frame_size: tuple[int, int]) -> None:
        """Notes once of each size that live input comes in whether it is letterboxed."""
        session = self._session
        if session is None or frame_size in self._sizes or len(self._sizes) == _NAMED:
            return
        self._sizes.add(frame_size)
        if not session.plan(frame_size).published:
            (height, width), (input_h, input_w) = frame_size, session.input_size
            self._notes.append(
                f"frames of {width}x{height} are letterboxed into {input_w}x{input_h}, which is "
                "not the published preprocessing; export with --like VIDEO for this video"
            )

    def _identity(self, session: VideoSession) -> RunIdentity | None:
        """None for what cannot be read again from its beginning, and so not be gone on with."""
        job = self.job
        if job.path is None or not (job.path.is_file() or job.path.is_dir()):
            return None
        try:
            video = fingerprint(job.path)
        except OSError as error:
            raise VideoError(f"{job.path} cannot be read ({error.strerror})") from error
        return RunIdentity(
            model=self._model.identity,
            computed_by=self._model.kind,
            video=video,
            start=job.start,
            stride=job.stride,
            **session.choices,
        )

    def _saved(self, identity: RunIdentity | None) -> SavedRun | None:
        if not self.job.goes_on:
            if self.job.resume:
                self._notes.append(f"{self.job.out} held nothing to resume: began at the beginning")
            return None
        if identity is None:
            raise ResumeError(f"{self.job.name} is no file and no folder: it cannot be resumed")
        saved = read_saved(self.job.out)
        saved.check(identity)
        others = set(written_by(self.job.out)) - set(written_by(self.job.out, self.job.pictures))
        short = sorted(str(path) for path in others if path.exists())
        if short:
            raise ResumeError(
                f"{short[0]} would end where the earlier run did; ask for it as that run did, or "
                "remove it"
            )
        return saved

    def _write_results(self) -> None:
        """Live input has no length, which the format is made of."""
        if self._files is not None and self._source is not None and not self._source.live:
            self._files.write_results()

    def _save_state(self) -> None:
        """After a step that failed, what was saved before is what can be gone on with."""
        if self._keeper is not None and not self._in_step:
            self._keeper.save()

    def _summarise(self, error: BaseException | None) -> None:
        ended_by = None
        if error is not None:
            ended_by = str(error) if isinstance(error, Exception) else "interruption"
        tally, source = self._tally, self._source
        self._summary = RunSummary(
            model=self._model.name,
            kind=self._model.kind,
            video=self.job.name,
            streams=self._model.runner.batch,
            choices=self._choices,
            ended_by=ended_by,
            frames=tally.frames,
            resumed_at=tally.resumed_at,
            resets=dict(tally.resets),
            frames_dropped=0 if source is None else source.frames_dropped,
            reconnects=0 if source is None else source.reconnects,
            tracks=tally.tracks,
            tracks_by_class=tally.tracks_by_class(),
            tracks_dropped=tally.tracks_dropped,
            tracks_dropped_ids=tally.tracks_dropped_ids,
            latency_ms=tally.latency(),
            notes=self._notes + _notes(source, tally, self._skipped_before),
        )
        if self.job.goes_on and self._files is None:
            return  # what could not be resumed stays as it was
        try:
            self._summary.write(self.job.out / SUMMARY)
        except VideoError as failure:
            if ended_by is None:
                self._summary = dataclasses.replace(self._summary, ended_by=str(failure))

    @contextmanager
    def _own_failures(self) -> Iterator[None]:
        try:
            yield
        except VideoError as error:
            self.end(error)
        except ResumeError as error:
            advice = "; run without --resume" if self.job.resume else ""
            self.end(ResumeError(f"{error}{advice}"))


def _notes(source: VideoSource | None, tally: RunTally, skipped_before: int) -> list[str]:
    notes = []
    skipped = skipped_before + (0 if source is None else source.frames_skipped_corrupt)
    if skipped:
        notes.append(f"{skipped} corrupt packets or images were skipped")
    if source is not None and source.frames_damaged:
        notes.append(f"{source.frames_damaged} frames were decoded with visible damage")
    if source is not None and source.frames_dropped:
        notes.append(f"{source.frames_dropped} frames were dropped because they waited too long")
    if source is not None and source.reconnects:
        notes.append(f"the connection was lost and made again {source.reconnects} times")
    if tally.tracks_dropped:
        named = ", ".join(map(str, tally.tracks_dropped_ids[:_NAMED]))
        notes.append(
            f"{tally.tracks_dropped} tracks were forgotten because every track slot was taken "
            f"({named}{', ...' if tally.tracks_dropped > _NAMED else ''}); export with more "
            "tracks.slots"
        )
    return notes

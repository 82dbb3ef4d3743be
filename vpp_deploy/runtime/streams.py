"""The loop of a run: videos take the streams of a session, which steps them together."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.job import VideoJob, check_folders, prepare_folders
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.run_files import locked
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.summary import RunSummary
from vpp_deploy.runtime.video_run import VideoRun
from vpp_deploy.video.source import Frame


def run_videos(
    model: OpenedModel,
    session: VideoSession,
    jobs: Sequence[VideoJob],
    *,
    on_frame: Callable[[FrameResult], None] = lambda _: None,
    on_resume: Callable[[int], None] = lambda _: None,
    whole: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[RunSummary]:
    """Runs every video into its folder: frames.jsonl, results.json, summary.json, state.npz.

    As many videos as the session has streams are stepped together; when one ends, the next one
    waiting takes its stream. Each gets what it would get alone. A video that fails by itself, its
    source or its files, ends early, and the others go on. Whatever ends the run, the files hold
    every frame that was done.

    Args:
        model: what the session runs.
        session: at its first frame.
        jobs: one or more, each with a folder of its own.
        on_frame: told of every frame done.
        on_resume: told how many frames of a video an earlier run had done.
        whole: entered from a step of the model until its results are written: where interruptions
            may wait, so that a run can be resumed at the last frame that it did.

    Returns:
        What was seen of each video, in the order of `jobs`; `ended_by` of those that failed.

    Raises:
        BackendError: the model fails.
        VideoError: an output folder cannot be written, is a model's, or another process writes
            into it, before the first frame.
    """
    if len({job.out for job in jobs}) != len(jobs):
        raise ValueError("two videos have the same output folder")
    check_folders(job.out for job in jobs)
    with locked([job.out for job in jobs]):
        prepare_folders(jobs)
        streams = _Streams(model, session, jobs, on_resume, whole)
        try:
            while (results := streams.step()) is not None:
                for result in results:
                    on_frame(result)
        except BaseException as error:
            streams.end(error)
            raise
        return streams.summaries()


class _Streams:
    """Which video is in which stream, and which are waiting. Only those in a stream are open."""

    def __init__(
        self,
        model: OpenedModel,
        session: VideoSession,
        jobs: Sequence[VideoJob],
        on_resume: Callable[[int], None],
        whole: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._model = model
        self._on_resume = on_resume
        self._whole = whole
        self._session = session
        self._jobs = jobs
        self._waiting = iter(jobs)
        self._running: list[VideoRun | None] = [None] * model.runner.batch
        self._summaries: dict[Path, RunSummary] = {}
        self._notes: list[str] = []
        idle = model.runner.batch - len(jobs)
        if idle > 0:
            self._notes.append(
                f"{idle} of the model's {model.runner.batch} streams had no video; a step takes "
                "about as long as with all of them"
            )

    def step(self) -> list[FrameResult] | None:
        """Steps all streams together; returns what was written of it, None when all have ended."""
        frames = [self._read(s) for s in range(len(self._running))]
        if all(frame is None for frame in frames):
            return None
        done = []
        with self._whole():
            for run in self._running:
                if run is not None:
                    run.stepping()
            start = time.perf_counter()
            results = self._session.step_batch(frames)
            step_ms = (time.perf_counter() - start) * 1e3
            for run, frame, result in zip(self._running, frames, results, strict=True):
                assert (run is None) == (frame is None) == (result is None)
                if run and frame and result and run.write(frame, result, step_ms):
                    done.append(result)
        return done

    def end(self, error: BaseException) -> None:
        """Ends what is running."""
        with ExitStack() as stack:
            for run in self._running:
                if run is not None:
                    stack.callback(run.end, error)

    def summaries(self) -> list[RunSummary]:
        """Of every video, all having ended."""
        return [self._summaries[job.out] for job in self._jobs]

    def _read(self, s: int) -> Frame | None:
        """The next frame of stream `s`, of the next video where its own has ended."""
        while True:
            run = self._running[s]
            if run is not None:
                frame = run.read()
                if frame is not None:
                    return frame
                assert run.summary is not None
                self._summaries[run.job.out] = run.summary
                self._running[s] = None
            job = next(self._waiting, None)
            if job is None:
                return None
            self._session.reset(s)
            self._running[s] = run = VideoRun(job, self._model, self._session.choices, self._notes)
            run.begin(self._session, s)
            self._on_resume(run.resumed_at)

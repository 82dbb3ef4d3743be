"""A video, frame by frame: a small interpreter over a pipeline's named tensors.

It puts the frame and the tracks into the table, runs the stages in order, reads the results and
swaps the state. Which stages there are, and what travels between them, is the specification's
business: only the names of what goes in (frames, frame_sizes, track_queries, track_valid,
rank_noise) and what comes out (class_logits, mask_logits, queries) are known here.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.detections import Detections
from vpp_deploy.runtime.detector import new_detector
from vpp_deploy.runtime.made_masks import STAGE, makes_masks
from vpp_deploy.runtime.postprocess import PostprocessSettings
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.tracker import Tracker
from vpp_deploy.video.resize import ResizePlan, plan_for_input, resize_frame
from vpp_deploy.video.source import Frame

DEVICE, READ = "device", "read masks"
"""What is timed where stages run unobserved: all of them up to the results, and reading these."""

_NOISE_SCALE = 0.1  # the published selectors divide their Gumbel noise by a temperature of 10


@dataclass
class _Stream:
    """What one stream carries between frames beside the runner's temporal state."""

    tracker: Tracker
    rng: np.random.Generator | None
    cold: bool = True
    plan: ResizePlan | None = None
    frames_seen: int = 0


@dataclass
class _Clock:
    """Wall time per stage of one frame, in milliseconds."""

    stage_ms: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.stage_ms[name] = self.stage_ms.get(name, 0.0) + (now - self._start) * 1e3
        self._start = now


class VideoSession:
    """Steps the streams of one pipeline; owns their temporal state and their tracks."""

    def __init__(
        self,
        runner: PipelineRunner,
        *,
        settings: PostprocessSettings | None = None,
        exploration_seed: int | None = None,
    ) -> None:
        """Starts with every stream at its first frame.

        Args:
            runner: computes the stages. It holds the temporal state, so it serves one session at
                a time: this one from now on.
            settings: thresholds of post-processing; the published ones by default.
            exploration_seed: None ranks the tokens as they score. A seed (0 or more) adds the
                published code's noise to Map-SM's ranking, so that background tokens are let in
                now and then: every stream draws the same from its first frame on.

        Raises:
            BackendError: a seed for a pipeline that ranks nothing (a dense model).
        """
        self._runner = runner
        runner.owner = self
        self._detector = new_detector(runner, settings or PostprocessSettings())
        self._makes_masks = makes_masks(runner)
        self._seed = exploration_seed
        spec = runner.spec
        frames = spec.tensor("frames")
        self.input_size = (frames.shape[1], frames.shape[2])
        slots = spec.tensor("track_queries").shape
        self._slots = None if slots[1] == -1 else slots[1]
        self._query_width = slots[2]
        self._streams = [self._new_stream() for _ in range(runner.batch)]
        self._frames = np.zeros(frames.shape, np.uint8)
        self._sizes = np.zeros((runner.batch, 2), np.int64)
        if any(t.name == "rank_noise" for stage in spec.stages for t in stage.inputs):
            self._noise = np.zeros(spec.tensor("rank_noise").shape, np.float32)
            runner.upload("rank_noise", self._noise)
        elif exploration_seed is not None:
            raise BackendError("this model is dense: it ranks no tokens, so nothing is explored")

    def reset(self, stream: int | None = None) -> None:
        """Forgets the temporal state and the tracks of one stream, or of all."""
        for s in range(len(self._streams)) if stream is None else (stream,):
            self._streams[s] = self._new_stream()

    def plan(self, frame_size: tuple[int, int]) -> ResizePlan:
        """How frames of (Ho, Wo) pixels become this pipeline's input."""
        return plan_for_input(frame_size[0], frame_size[1], self.input_size)

    def step(self, frame: Frame) -> FrameResult:
        """The next frame of a single stream.

        Raises:
            ValueError: the pipeline steps several streams; use `step_batch`.
        """
        if len(self._streams) != 1:
            raise ValueError(f"this pipeline steps {len(self._streams)} streams: use step_batch")
        (result,) = self.step_batch([frame])
        assert result is not None
        return result

    def step_batch(self, frames: Sequence[Frame | None]) -> list[FrameResult | None]:
        """The next frame of every stream; None for a stream that has none (it is reset).

        A stream whose frames change their size is reset, too: its tokens no longer lie where the
        previous frame's did.

        Raises:
            BackendError: the head's output is not finite.
            ValueError: another number of frames than streams, or another session on this runner.
        """
        if self._runner.owner is not self:
            raise ValueError("another session has taken over this runner, and its temporal state")
        if len(frames) != len(self._streams):
            raise ValueError(f"got {len(frames)} frames for {len(self._streams)} streams")
        active = [s for s, frame in enumerate(frames) if frame is not None]
        if not active:
            self.reset()
            return [None] * len(frames)
        clock = _Clock()
        self._resize(frames)
        clock.lap("resize")
        valid = self._upload(active)
        clock.lap("upload")
        self._run_stages(active, clock)
        queries = self._runner.download("queries")
        if self._runner.asynchronous:
            clock.lap(DEVICE)
        try:
            detections_of = self._detector.read(self._plans, valid)
        except FloatingPointError as error:
            raise _not_finite([frames[s] for s in active], error) from error
        if self._makes_masks:
            clock.lap(READ if self._runner.asynchronous else STAGE)
        return [
            None if frame is None else self._finish(s, frame, detections_of, queries[s], clock)
            for s, frame in enumerate(frames)
        ]

    @property
    def _plans(self) -> list[ResizePlan | None]:
        return [stream.plan for stream in self._streams]

    def _new_stream(self) -> _Stream:
        rng = None if self._seed is None else np.random.default_rng(self._seed)
        return _Stream(Tracker(self._slots, self._query_width), rng)

    def _resize(self, frames: Sequence[Frame | None]) -> None:
        """Every frame into its place. A stream whose frame size changes starts anew."""
        for s, frame in enumerate(frames):
            if frame is None:
                self._streams[s] = self._new_stream()
                continue
            height, width = frame.rgb.shape[:2]
            before = self._streams[s].plan
            if before is not None and before.frame_size != (height, width):
                self._streams[s] = self._new_stream()
            plan = self.plan((height, width))
            self._streams[s].plan = plan
            resize_frame(frame.rgb, plan, out=self._frames[s])
            self._sizes[s] = plan.resized

    def _upload(self, active: list[int]) -> NDArray[np.bool_]:
        """Frames, tracks and noise; returns (B, T) which track slots are in use."""
        counts = [len(stream.tracker) for stream in self._streams]
        slots = counts[0] if self._slots is None else self._slots
        queries = np.zeros((len(counts), slots, self._query_width), np.float32)
        for s, stream in enumerate(self._streams):
            queries[s, : counts[s]] = stream.tracker.track_queries()
        valid: NDArray[np.bool_] = np.arange(slots) < np.array(counts)[:, None]
        self._detector.prepare(self._plans)
        self._runner.upload("frames", self._frames)
        self._runner.upload("frame_sizes", self._sizes)
        self._runner.upload("track_queries", queries)
        self._runner.upload("track_valid", valid)
        if self._seed is not None:
            for s in active:
                rng = self._streams[s].rng
                assert rng is not None
                self._noise[s] = rng.logistic(0.0, _NOISE_SCALE, self._noise.shape[1])
            self._runner.upload("rank_noise", self._noise)
        return valid

    def _run_stages(self, active: list[int], clock: _Clock) -> None:
        start = self._runner.spec.cold_start
        # A stream without a frame has no say in how the others run, and stays at its first frame.
        cold = np.array([stream.cold for stream in self._streams])
        all_cold, any_cold = bool(cold[active].all()), bool(cold[active].any())
        for stage in self._runner.spec.stages:
            if start is not None and stage.name in start.skip and all_cold:
                continue
            if start is None or start.keep not in [t.name for t in stage.inputs]:
                self._runner.run(stage.name)
            elif any_cold and not all_cold:
                self._run_mixed(stage.name, [t.name for t in stage.outputs], cold)
            else:
                self._runner.run(stage.name, cold=all_cold)
            if not self._runner.asynchronous:
                clock.lap(stage.name)
        self._runner.advance()
        for s in active:
            self._streams[s].cold = False

    def _run_mixed(self, stage: str, outputs: list[str], cold: NDArray[np.bool_]) -> None:
        """Some streams are at their first frame, some not: runs both ways, keeps each one's own.

        So every stream gets to the last bit what it would get if all were like it. It costs a
        second run of the stage, on such frames only.
        """
        self._runner.run(stage)
        warm = {name: self._runner.download(name)[~cold].copy() for name in outputs}
        self._runner.run(stage, cold=True)
        for name, rows in warm.items():
            merged = self._runner.download(name).copy()
            merged[~cold] = rows
            self._runner.upload(name, merged)

    def _finish(
        self,
        s: int,
        frame: Frame,
        detections_of: Callable[[int], Detections],
        queries: NDArray[np.float32],
        clock: _Clock,
    ) -> FrameResult:
        """Post-processing and tracking of one stream."""
        stream = self._streams[s]
        own = _Clock(dict(clock.stage_ms))
        try:
            detections = detections_of(s)
        except FloatingPointError as error:
            raise _not_finite([frame], error) from error
        own.lap("postprocess")
        update = stream.tracker.update(stream.frames_seen, detections, queries)
        own.lap("tracking")
        first = stream.frames_seen == 0
        stream.frames_seen += 1
        return FrameResult(
            frame.index, frame.time_s, update.tracks, own.stage_ms, first, update.dropped
        )


def _not_finite(frames: Sequence[Frame | None], error: FloatingPointError) -> BackendError:
    named = ", ".join(str(frame.index) for frame in frames if frame is not None)
    return BackendError(
        f"frame {named}: {error}; the weights or the precision do not fit this input"
    )

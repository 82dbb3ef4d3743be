"""A video, frame by frame: a small interpreter over a pipeline's named tensors.

It puts the frame and the tracks into the table, runs the stages in order, reads the results and
swaps the state. Which stages there are, and what travels between them, is the specification's
business: only the names of what goes in (frames, frame_sizes, track_queries, track_valid,
rank_noise: `StepInputs`) and what comes out (class_logits, mask_logits, queries) are known.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError, ResumeError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.clock import DEVICE, READ, Clock
from vpp_deploy.runtime.detections import Detections
from vpp_deploy.runtime.detector import new_detector
from vpp_deploy.runtime.exploration import NONE, Exploration, parse_exploration
from vpp_deploy.runtime.inputs import StepInputs
from vpp_deploy.runtime.made_masks import STAGE, makes_masks
from vpp_deploy.runtime.postprocess import PostprocessSettings
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.snapshots import TENSOR, Snapshot, checked_tensors
from vpp_deploy.runtime.stages import run_stages
from vpp_deploy.runtime.stream import ResetPolicy, Stream
from vpp_deploy.runtime.token_maps import TokenMaps
from vpp_deploy.runtime.tracker import Tracker
from vpp_deploy.video.resize import ResizePlan, plan_for_input
from vpp_deploy.video.source import Frame


class VideoSession:
    """Steps the streams of one pipeline; owns their temporal state and their tracks.

    Attributes:
        classes: names by label.
        input_size: (H, W) of the pipeline's input in pixels.
    """

    def __init__(
        self,
        runner: PipelineRunner,
        *,
        settings: PostprocessSettings | None = None,
        exploration: Exploration | None = None,
        resets: ResetPolicy | None = None,
        tokens: bool = False,
        classes: Sequence[str] = (),
    ) -> None:
        """Starts with every stream at its first frame.

        Args:
            runner: computes the stages. It holds the temporal state, so it serves one session at
                a time: this one from now on.
            settings: thresholds of post-processing; the published ones by default.
            exploration: what lets background tokens in now and then; None ranks the tokens as they
                score.
            resets: when a stream runs a frame without the state of the one before; by default only
                where it must, as the published evaluation does.
            tokens: also tell which patches ran in which blocks.
            classes: names by label, for whoever reads the results.

        Raises:
            BackendError: exploration, or `tokens`, for a dense model, which ranks nothing; a
                lattice that the budget has no room for.
        """
        self.classes = tuple(classes)
        self._runner = runner
        runner.owner = self
        self._detector = new_detector(runner, settings or PostprocessSettings())
        self._makes_masks = makes_masks(runner)
        self._broken: set[int] = set()
        self._exploration = exploration
        self._resets = resets or ResetPolicy()
        self._token_maps = TokenMaps(runner) if tokens else None
        self._inputs = StepInputs(runner, exploration)
        self.input_size = self._inputs.size
        self._streams = [self._new_stream() for _ in range(runner.batch)]

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        backend: str | None = None,
        threads: int | None = None,
        scene_cuts: bool = True,
        refresh_every: int | None = None,
        exploration: str | None = None,
        tokens: bool = False,
    ) -> "VideoSession":
        """A session of a bundle or an engine, as `vpp-deploy run` has it.

        Args:
            model: folder.
            backend: of `BACKENDS`; None: an engine's own, and ONNX Runtime on the CPU for a bundle.
            threads: of the CPU; None: one per core.
            scene_cuts: forget state and tracks where a new scene begins.
            refresh_every: so many frames after the last reset, run all patches in blocks 1-2.
            exploration: what lets background patches in, as `parse_exploration` takes it; None:
                what suits the model, see `suited_exploration`.
            tokens: as the constructor takes it.

        Raises:
            BundleError, BackendError, EngineError: it cannot be loaded, or not run here.
            ValueError: `refresh_every` is less than 1, or `exploration` is nothing known.
        """
        from vpp_deploy.runtime.opening import open_bundle

        policy = ResetPolicy(scene_cuts, refresh_every)
        if exploration is not None:
            parse_exploration(exploration)  # before anything is loaded
        opened = open_bundle(Path(model), backend, threads)
        return opened.session(opened.explored_by(exploration), policy, tokens=tokens)

    @property
    def choices(self) -> dict[str, Any]:
        """What its results depend on beside the model, by the names that `open` gives them."""
        return {
            "exploration": NONE if self._exploration is None else str(self._exploration),
            "scene_cuts": self._resets.scene_cuts,
            "refresh_every": self._resets.refresh_every,
            "tokens": self._token_maps is not None,
        }

    def reset(self, stream: int | None = None) -> None:
        """Begins a new video in one stream, or in all: no temporal state, no tracks, ids from 0.

        Raises:
            ValueError: no such stream, or another session on this runner.
        """
        self._check_own(0 if stream is None else stream)
        for s in range(len(self._streams)) if stream is None else (stream,):
            self._streams[s] = self._new_stream()
            self._broken.discard(s)

    def plan(self, frame_size: tuple[int, int]) -> ResizePlan:
        """How frames of (Ho, Wo) pixels become this pipeline's input."""
        return plan_for_input(frame_size[0], frame_size[1], self.input_size)

    def step(self, frame: Frame) -> FrameResult:
        """The next frame of a single stream.

        Raises:
            ValueError: the pipeline steps several streams (use `step_batch`), or there is no frame.
        """
        if frame is None:
            raise ValueError("got no frame; where a new video begins, use reset()")
        if len(self._streams) != 1:
            raise ValueError(f"this pipeline steps {len(self._streams)} streams: use step_batch")
        (result,) = self.step_batch([frame])
        assert result is not None
        return result

    def step_batch(self, frames: Sequence[Frame | None]) -> list[FrameResult | None]:
        """The next frame of every stream; None for a stream that has none (it is reset).

        A stream whose frames change their size, or were interrupted, forgets its state and its
        tracks; ids go on.

        Raises:
            BackendError: the head's output is not finite.
            ValueError: another number of frames than streams, or another session on this runner.
        """
        self._check_own()
        if len(frames) != len(self._streams):
            raise ValueError(f"got {len(frames)} frames for {len(self._streams)} streams")
        active = [s for s, frame in enumerate(frames) if frame is not None]
        if not active:
            self.reset()
            return [None] * len(frames)
        clock = Clock()
        self._broken |= set(active)
        self._take(frames)
        clock.lap("resize")
        self._detector.prepare(self._plans)
        valid = self._inputs.upload(self._streams, active)
        clock.lap("upload")
        cold = np.array([stream.reset is not None for stream in self._streams])
        run_stages(self._runner, cold, active, clock)
        queries = self._runner.download("queries")
        if self._runner.asynchronous:
            clock.lap(DEVICE)
        try:
            detections_of = self._detector.read(self._plans, valid)
        except FloatingPointError as error:
            raise _not_finite([frames[s] for s in active], error) from error
        if self._makes_masks:
            clock.lap(READ if self._runner.asynchronous else STAGE)
        kept = None
        if self._token_maps is not None:
            kept = self._token_maps.read()
            clock.lap("read tokens")
        results = [
            None
            if frame is None
            else self._finish(s, frame, detections_of, queries[s], kept, clock)
            for s, frame in enumerate(frames)
        ]
        self._broken -= set(active)
        return results

    def save(self, stream: int = 0) -> dict[str, NDArray[Any]]:
        """What the stream carries to its next frame: copies, some hundred kB.

        Raises:
            BackendError: the device fails, or the last step did.
            ResumeError: it has had no frame yet.
            ValueError: no such stream, or another session on this runner.
        """
        self._check_own(stream)
        if stream in self._broken:
            raise BackendError("the last step failed: its state is that of no frame")
        if self._streams[stream].reset is not None:
            raise ResumeError("there is nothing to save before the first frame")
        saved = self._streams[stream].save()
        for edge in self._runner.spec.state:
            saved[TENSOR + edge.input] = self._runner.download(edge.input)[stream].copy()
        return saved

    def restore(self, saved: Snapshot, stream: int = 0) -> None:
        """Goes on from what `save` gave, of this or of an equal pipeline.

        Raises:
            ResumeError: it is of another pipeline, or damaged.
            BackendError: the device fails.
            ValueError: no such stream, or another session on this runner.
        """
        self._check_own(stream)
        restored = self._new_stream()
        frame_size = restored.restore(saved)
        for name, row in checked_tensors(saved, self._runner.spec).items():
            rows = row[None]
            if len(self._streams) > 1:
                rows = self._runner.download(name).copy()
                rows[stream] = row
            self._runner.upload(name, rows)
        restored.plan = self.plan(frame_size)
        self._streams[stream] = restored
        self._broken.discard(stream)

    @property
    def _plans(self) -> list[ResizePlan | None]:
        return [stream.plan for stream in self._streams]

    def _check_own(self, stream: int = 0) -> None:
        if self._runner.owner is not self:
            raise ValueError("another session has taken over this runner, and its temporal state")
        if not 0 <= stream < len(self._streams):
            raise ValueError(f"stream {stream} of {len(self._streams)}, counted from 0")

    def _new_stream(self) -> Stream:
        return Stream(Tracker(self._inputs.slots, self._inputs.query_width), self._resets)

    def _take(self, frames: Sequence[Frame | None]) -> None:
        """Every frame into its place."""
        for s, frame in enumerate(frames):
            if frame is None:
                self._streams[s] = self._new_stream()
                continue
            height, width = frame.rgb.shape[:2]
            plan = self.plan((height, width))
            self._streams[s].meet(frame, plan, self._inputs.put(s, frame.rgb, plan))

    def _finish(
        self,
        s: int,
        frame: Frame,
        detections_of: Callable[[int], Detections],
        queries: NDArray[np.float32],
        kept: list[NDArray[np.int64]] | None,
        clock: Clock,
    ) -> FrameResult:
        """Post-processing and tracking of one stream."""
        stream = self._streams[s]
        own = Clock(dict(clock.stage_ms))
        try:
            detections = detections_of(s)
        except FloatingPointError as error:
            raise _not_finite([frame], error) from error
        own.lap("postprocess")
        update = stream.tracker.update(stream.frames_seen, detections, queries)
        own.lap("tracking")
        reset = stream.passed()
        tokens = None
        if self._token_maps is not None and kept is not None:
            assert stream.plan is not None
            tokens = self._token_maps.map(kept, s, stream.plan, cold=reset is not None)
        return FrameResult(
            frame.index,
            frame.time_s,
            update.tracks,
            own.stage_ms,
            reset,
            update.dropped,
            stream.tracker.memory.ids,
            tokens,
        )


def _not_finite(frames: Sequence[Frame | None], error: FloatingPointError) -> BackendError:
    named = ", ".join(str(frame.index) for frame in frames if frame is not None)
    return BackendError(
        f"frame {named}: {error}; the weights or the precision do not fit this input"
    )

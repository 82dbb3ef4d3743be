"""The timed pass: several models, frame by frame in turn, over the same frames.

A machine's speed drifts; what two models take for the same frame, one right after the other,
drifts together, so the ratio of the two holds where neither of the times does.
"""

import contextlib
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.manifests import PATCH_SIZE, StageOperations
from vpp_deploy.profiling.feed import FrameFeed
from vpp_deploy.profiling.memory import peak_bytes, resident_bytes
from vpp_deploy.profiling.samples import Samples
from vpp_deploy.profiling.stepping import stage_names, timed_step
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.session import VideoSession

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A model to be profiled, not opened yet.

    Attributes:
        label: names it in the report; no two are equal.
        path: of the model, for people to read.
        open: opens it; given a folder, with ONNX Runtime's profiler writing there.
    """

    label: str
    path: str
    open: Callable[[Path | None], OpenedModel]


@dataclass
class ModelProfile:
    """What was seen of one model.

    Attributes:
        label, path, kind, sha256: which model, and what computes it.
        batch: streams stepped together; times are those of a whole step.
        input_size: (H, W) in pixels.
        num_tokens: N.
        graphs: names of the stages that are graphs.
        budgets: as `OpenedModel` has them.
        load_ms: opening it, checks of its files included.
        load_bytes: what the process held more afterwards; None where that is not known.
        first_call_ms: the first step after it was opened, the warm-up's first or, without a
            warm-up, the first timed one.
        samples: the timed frames.
        operations: multiply-accumulates by stage; None where they were not counted.
    """

    label: str
    path: str
    kind: str
    sha256: str
    batch: int
    input_size: tuple[int, int]
    num_tokens: int
    graphs: tuple[str, ...]
    budgets: tuple[int, ...] | None
    load_ms: float
    load_bytes: int | None
    samples: Samples
    operations: dict[str, StageOperations] | None
    first_call_ms: float = math.nan


@dataclass
class Timing:
    """The timed pass over all models.

    Attributes:
        models: in the order given.
        video: what the frames were, for people to read.
        frame_size: (H, W) of the frames in pixels.
        warmup: frames stepped before.
        peak_bytes: the most that the process held, all models together; None where not known.
        loops: how often the video started again.
        notes: what a reader should know.
    """

    models: list[ModelProfile]
    video: str
    frame_size: tuple[int, int]
    warmup: int
    peak_bytes: int | None = None
    loops: int = 0
    notes: list[str] = field(default_factory=list)
    _decode_ms: "array[float]" = field(default_factory=lambda: array("d"))
    _resident: "array[float]" = field(default_factory=lambda: array("d"))

    def record(self, decode_ms: float, resident: float) -> None:
        """One frame more: what decoding it took, and what the process held after it."""
        self._decode_ms.append(decode_ms)
        self._resident.append(resident)

    @property
    def decode_ms(self) -> NDArray[np.float64]:
        """(n,) NaN where nothing was decoded, or where opening the video did it."""
        return np.array(self._decode_ms)

    @property
    def resident_bytes(self) -> NDArray[np.float64]:
        """(n,) what the process held after each frame; NaN where the system does not tell."""
        return np.array(self._resident)


def time_models(
    candidates: Sequence[Candidate],
    feed: FrameFeed,
    num_frames: int,
    warmup: int,
    progress: Progress = lambda _: None,
) -> Timing:
    """Opens every model, steps the warm-up, starts the video anew and times each frame.

    Args:
        candidates: models; the first is what the others are compared with.
        feed: frames.
        num_frames: how many to time, first frames among them.
        warmup: frames to step before; 0 leaves what a first call costs in the first timed frame.
        progress: told what is being done.

    Raises:
        VppDeployError: a model cannot be opened or fails, or the video cannot be read.
    """
    opened = [_open(candidate, progress) for candidate in candidates]
    models = [profile for profile, _, _ in opened]
    timing = Timing(models, feed.description, feed.frame_size, warmup)
    for profile, _, session in opened:
        if not session.plan(feed.frame_size).published:
            (height, width), (input_h, input_w) = feed.frame_size, profile.input_size
            timing.notes.append(
                f"{profile.label}: frames of {width}x{height} are letterboxed into "
                f"{input_w}x{input_h}, which is not the published preprocessing"
            )
    baseline = models[0]
    for profile in models[1:]:
        if profile.input_size != baseline.input_size:
            sizes = " and ".join("x".join(map(str, p.input_size)) for p in (profile, baseline))
            timing.notes.append(
                f"{profile.label} and {baseline.label} have inputs of {sizes}: their ratios "
                "compare sizes, not models"
            )
    with contextlib.closing(feed.frames()) as frames:
        for number in range(warmup):
            progress(f"warm-up {number + 1}/{warmup}")
            fed = next(frames)
            for profile, model, session in opened:
                step = timed_step(session, model.runner, fed.frame)
                if number == 0:
                    profile.first_call_ms = step.step_ms
    with contextlib.closing(feed.frames()) as frames:
        for number in range(num_frames):
            progress(f"frame {number + 1}/{num_frames}")
            fed = next(frames)
            timing.loops += fed.first and number > 0
            # Each model has every place in the order equally often: what the one before it left
            # in the caches is nobody's advantage.
            start = number % len(opened)
            for profile, model, session in opened[start:] + opened[:start]:
                if fed.first:
                    session.reset()
                step = timed_step(session, model.runner, fed.frame)
                profile.samples.add(step.step_ms, step.stage_ms(), step.first, step.kept)
                if math.isnan(profile.first_call_ms):
                    profile.first_call_ms = step.step_ms
            timing.record(fed.decode_ms, resident_bytes() or math.nan)
    timing.peak_bytes = peak_bytes()
    return timing


def _open(
    candidate: Candidate, progress: Progress
) -> tuple[ModelProfile, OpenedModel, VideoSession]:
    progress(f"loading {candidate.path}")
    before, start = resident_bytes(), time.perf_counter()
    model = candidate.open(None)
    session = model.session(model.explored_by(None))
    load_ms = (time.perf_counter() - start) * 1e3
    after = resident_bytes()
    height, width = session.input_size
    profile = ModelProfile(
        label=candidate.label,
        path=candidate.path,
        kind=model.kind,
        sha256=model.sha256,
        batch=model.runner.batch,
        input_size=session.input_size,
        num_tokens=(height // PATCH_SIZE) * (width // PATCH_SIZE),
        graphs=tuple(stage.name for stage in model.runner.spec.stages),
        budgets=model.budgets,
        load_ms=load_ms,
        load_bytes=None if before is None or after is None else after - before,
        samples=Samples(stage_names(model.runner)),
        operations=model.operations,
    )
    return profile, model, session

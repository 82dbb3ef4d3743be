"""One timed step of a session: the clock is read around it, and the results are let go."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from vpp_deploy.runtime.clock import DEVICE, READ
from vpp_deploy.runtime.made_masks import STAGE
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.video.source import Frame

BEFORE = ("resize", "upload")
AFTER = ("postprocess", "tracking")
"""What a session does before and after the graphs; the latter for each stream in turn."""


@dataclass(frozen=True)
class Step:
    """Times of one step.

    Attributes:
        start_ns: when it began, by `time.perf_counter_ns`.
        step_ms: wall time of all of it.
        laps: (stage, milliseconds) in the order they ran; with several streams, `AFTER` repeats.
        first: every stream was at a first frame.
        kept: tensor of positions to how many tokens it named.
    """

    start_ns: int
    step_ms: float
    laps: tuple[tuple[str, float], ...]
    first: bool
    kept: Mapping[str, int]

    def has(self, stage: str) -> bool:
        """Whether the stage ran."""
        return any(name == stage for name, _ in self.laps)

    def stage_ms(self) -> dict[str, float]:
        """Stage to milliseconds, all streams together."""
        total: dict[str, float] = {}
        for stage, milliseconds in self.laps:
            total[stage] = total.get(stage, 0.0) + milliseconds
        return total


def timed_step(session: VideoSession, runner: PipelineRunner, frame: Frame) -> Step:
    """Gives the same frame to every stream of the session.

    Raises:
        BackendError: as `VideoSession.step_batch`.
    """
    frames = [frame] * runner.batch
    start_ns = time.perf_counter_ns()
    results = session.step_batch(frames)
    step_ms = (time.perf_counter_ns() - start_ns) / 1e6
    own = [result.stage_ms for result in results if result is not None]
    laps = [lap for lap in own[0].items() if lap[0] not in AFTER]
    laps += [(name, times[name]) for times in own for name in AFTER if name in times]
    first = all(result is not None and result.first for result in results)
    return Step(start_ns, step_ms, tuple(laps), first, _kept(runner, first))


def stage_names(runner: PipelineRunner) -> tuple[str, ...]:
    """Every stage that a session times, in the order they run."""
    graphs = [stage.name for stage in runner.spec.stages]
    return (*BEFORE, *((DEVICE, READ) if runner.asynchronous else graphs), *AFTER)


def _kept(runner: PipelineRunner, first: bool) -> dict[str, int]:
    """How many tokens each selection of the last frame kept, by its tensor of positions."""
    start = runner.spec.cold_start
    if start is None:
        return {}
    names = [
        tensor.name
        for stage in runner.spec.stages
        for tensor in stage.outputs
        if stage.name != STAGE and tensor.dtype.startswith("int") and len(tensor.shape) == 2
    ]
    return {
        name: start.num_tokens if first and name == start.keep else _num_kept(runner, name)
        for name in names
    }


def _num_kept(runner: PipelineRunner, name: str) -> int:
    fixed = runner.spec.tensor(name).shape[1]
    return fixed if fixed != -1 else int(runner.download(name).shape[1])

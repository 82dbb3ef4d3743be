"""One frame of every stream through the stages, whichever of them is at a first frame."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.runtime.clock import Clock
from vpp_deploy.runtime.runner import PipelineRunner


def run_stages(
    runner: PipelineRunner,
    cold_B: NDArray[np.bool_],
    active: Sequence[int],
    clock: Clock,
    without: Collection[str] = (),
) -> None:
    """Runs the stages in order and moves the state on.

    Args:
        runner: with everything uploaded that the frame needs.
        cold_B: which streams run without the state of a frame before.
        active: the streams that have a frame. The others have no say in how these run.
        clock: a lap for each stage, where the runner can be observed.
        without: stages that are left out, of which nobody needs an output.
    """
    start = runner.spec.cold_start
    all_cold, any_cold = bool(cold_B[list(active)].all()), bool(cold_B[list(active)].any())
    for stage in runner.spec.stages:
        if stage.name in without or (start is not None and stage.name in start.skip and all_cold):
            continue
        if start is None or start.keep not in [t.name for t in stage.inputs]:
            runner.run(stage.name)
        elif any_cold and not all_cold:
            _run_mixed(runner, stage.name, [t.name for t in stage.outputs], cold_B)
        else:
            runner.run(stage.name, cold=all_cold)
        if not runner.asynchronous:
            clock.lap(stage.name)
    runner.advance()


def _run_mixed(
    runner: PipelineRunner, stage: str, outputs: list[str], cold_B: NDArray[np.bool_]
) -> None:
    """Some streams are at their first frame, some not: runs both ways, keeps each one's own.

    So every stream gets to the last bit what it would get if all were like it. It costs a second
    run of the stage, on such frames only.
    """
    runner.run(stage)
    warm = {name: runner.download(name)[~cold_B].copy() for name in outputs}
    runner.run(stage, cold=True)
    for name, rows in warm.items():
        merged = runner.download(name).copy()
        merged[~cold_B] = rows
        runner.upload(name, merged)

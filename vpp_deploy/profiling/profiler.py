"""One call for a whole profile."""

from collections.abc import Sequence
from datetime import datetime

from vpp_deploy.profiling.environment import describe_environment, load_average
from vpp_deploy.profiling.feed import FrameFeed
from vpp_deploy.profiling.measure import Candidate, Progress, time_models
from vpp_deploy.profiling.nodes import NodePass, inspect_models
from vpp_deploy.profiling.report import ProfileReport


def profile_models(
    candidates: Sequence[Candidate],
    feed: FrameFeed,
    *,
    num_frames: int,
    warmup: int,
    nodes: bool = True,
    threads: int | None = None,
    command: str = "",
    progress: Progress = lambda _: None,
) -> ProfileReport:
    """Times the models, then looks into each.

    Args:
        candidates: models; the first is what the others are compared with.
        feed: frames.
        num_frames: how many to time, first frames of the video among them.
        warmup: frames to step before.
        nodes: also make the second pass.
        threads: what the models are opened with, for the record.
        command: the command line, for the record.
        progress: told what is being done.

    Raises:
        VppDeployError: a model cannot be opened or fails, or the video cannot be read.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    load_before = load_average()
    timing = time_models(candidates, feed, num_frames, warmup, progress)
    load_after = load_average()
    passes: list[NodePass] = inspect_models(candidates, feed, progress) if nodes else []
    for model, second in zip(timing.models, passes, strict=False):
        model.operations = model.operations or second.operations
    environment = describe_environment()
    environment["threads"] = "one per core" if threads is None else str(threads)
    return ProfileReport(timing, passes, environment, command, started, load_before, load_after)

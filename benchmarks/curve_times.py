"""What the bundles of a curve take of each other's time, frame by frame in turns."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vpp_deploy.profiling.feed import VideoFeed
from vpp_deploy.profiling.measure import Candidate, Timing, time_models
from vpp_deploy.profiling.ratios import FRAME, compare, parts_of
from vpp_deploy.runtime.opening import OpenedModel, open_bundle

BASE = "fp32"
"""Of the model that all times are compared with, so never left out."""

TIMED = (BASE, "int8")
"""Half precision is for GPUs: on a CPU its accuracy can be seen, its speed says nothing."""


def time_bundles(
    made: Sequence[tuple[str, str, Path]], video: Path, frames: int, threads: int
) -> Timing:
    """Of those in `TIMED`; the first of `made` is what the others are compared with."""

    def opened(path: Path, profile: Path | None) -> OpenedModel:
        return open_bundle(path, threads=threads, profile_folder=profile)

    candidates = [
        Candidate(f"{label} {precision}", str(path), partial(opened, path))
        for label, precision, path in made
        if precision in TIMED
    ]
    return time_models(candidates, VideoFeed(video), frames, 3)


def times_of(timing: Timing) -> dict[str, tuple[float, float]]:
    """(milliseconds, over the first model's) by the label of each; first frames are left out."""
    times = {}
    for model in timing.models:
        ms = next(part.ms.p50 for part in parts_of(model) if part.part == FRAME)
        ratios = compare(timing.models[0], model)
        times[model.label] = (ms, next(one.latency for one in ratios if one.part == FRAME))
    return times


def told(timing: Timing) -> str:
    """Of which frames the times are medians: a short video is looped, first frames are no part."""
    first = timing.models[0].samples.first
    length = [*np.flatnonzero(first), len(first)][1]  # of the video, or what was seen of it
    return (
        f"medians of {np.count_nonzero(~first)} frames, {length - 1} of them distinct, of "
        f"{timing.video}, looped {timing.loops} times; {np.count_nonzero(first)} first frames and "
        f"{timing.warmup} of warm-up left out"
    )

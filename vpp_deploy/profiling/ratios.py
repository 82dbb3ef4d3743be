"""What one model takes of another's time and operations, part by part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.profiling.measure import ModelProfile
from vpp_deploy.profiling.samples import Spread, spread
from vpp_deploy.runtime.clock import DEVICE

HEAD = "head"
BACKBONE = "backbone"
GRAPHS = "all graphs"
FRAME = "whole frame"

_LEAST_SAVING = 0.01
"""Below this share of operations saved, a share of it that came true says nothing."""


@dataclass(frozen=True)
class PartTime:
    """Time and operations of a part of one model.

    Attributes:
        part: a stage, or one of BACKBONE (the graphs ahead of the head), GRAPHS, FRAME.
        ms: of a whole step.
        macs: multiply-accumulates of a step in mid-video; None where not counted or none.
        macs_first_frame: the same of a first frame.
    """

    part: str
    ms: Spread
    macs: int | None
    macs_first_frame: int | None

    @property
    def gmacs_per_s(self) -> float:
        """Giga-multiply-accumulates a second at the median time of graphs; NaN for others."""
        if self.macs is None or self.part == FRAME or not self.ms.p50:
            return math.nan
        return self.macs / self.ms.p50 / 1e6


@dataclass(frozen=True)
class Ratio:
    """One part of a model as a share of the same part of the first model.

    Attributes:
        part: as in `PartTime`.
        latency: median over frames of the ratio of the two times; NaN without a common frame.
        operations: ratio of multiply-accumulates; NaN where not counted.
    """

    part: str
    latency: float
    operations: float

    @property
    def came_true(self) -> float:
        """Saving in latency over saving in operations; NaN where less than 1 % is saved."""
        saved = 1 - self.operations
        return (1 - self.latency) / saved if saved >= _LEAST_SAVING else math.nan


def parts_of(model: ModelProfile) -> list[PartTime]:
    """Every stage in the order it runs, then the sums."""
    return [_part(model, name) for name in (*model.samples.stages, *_sums(model))]


def per_second(model: ModelProfile) -> float:
    """Frames a second of all streams together, decoding excluded; NaN without such a frame."""
    return 1e3 * model.batch / spread(model.samples.step_ms, model.samples.first).mean


def compare(baseline: ModelProfile, model: ModelProfile) -> list[Ratio]:
    """`model` against `baseline`, for the parts that both have; first frames are left out."""
    ratios = []
    either_first = baseline.samples.first | model.samples.first
    theirs = {part.part: part for part in parts_of(baseline)}
    for part in parts_of(model):
        base = theirs.get(part.part)
        if base is None:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = _times(model, part.part) / _times(baseline, part.part)
        shares = shares[~either_first & np.isfinite(shares)]
        latency = float(np.median(shares)) if shares.size else math.nan
        # Streams of a batch are counted together: a step of 4 against a step of 1 is per frame.
        latency *= baseline.batch / model.batch
        operations = math.nan
        if part.macs is not None and base.macs:
            operations = part.macs / base.macs * baseline.batch / model.batch
        ratios.append(Ratio(part.part, latency, operations))
    return ratios


def _sums(model: ModelProfile) -> list[str]:
    if DEVICE in model.samples.stages:
        return [FRAME]
    backbone = [BACKBONE] if HEAD in model.graphs and len(model.graphs) > 1 else []
    return [*backbone, GRAPHS, FRAME]


def _members(model: ModelProfile, part: str) -> Sequence[str]:
    """The graphs that a part has its operations from."""
    if part == BACKBONE:
        return model.graphs[: model.graphs.index(HEAD)]
    if part in (GRAPHS, FRAME, DEVICE):
        return model.graphs
    return (part,) if part in model.graphs else ()


def _times(model: ModelProfile, part: str) -> NDArray[np.float64]:
    if part == FRAME:
        return model.samples.step_ms
    if part in (BACKBONE, GRAPHS):
        return model.samples.sum_ms(_members(model, part))
    return model.samples.stage_ms(part)


def _part(model: ModelProfile, part: str) -> PartTime:
    times = spread(_times(model, part), model.samples.first)
    members = _members(model, part)
    if model.operations is None or not members:
        return PartTime(part, times, None, None)
    counted = [model.operations[name] for name in members]
    macs = sum(stage.macs for stage in counted)
    return PartTime(part, times, macs, sum(stage.macs_first_frame for stage in counted))

"""What is kept of a timed frame: numbers, a few bytes of them, for as many frames as one likes."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Spread:
    """Of the times of one stage, in milliseconds; NaN where there was no such frame.

    Attributes:
        first: median over the first frames of a video.
        p50, p90, p99, max, mean: over all others.
    """

    first: float
    p50: float
    p90: float
    p99: float
    max: float
    mean: float


class Samples:
    """One model's frames in the order they were timed.

    Columns are arrays of doubles: a frame costs about 100 bytes, and no result of it is held.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        """Starts without frames; `stages` are the names in the order they run."""
        self._step_ms = array("d")
        self._first = array("b")
        self._stages = {name: array("d") for name in stages}
        self._kept: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return len(self._step_ms)

    def add(
        self, step_ms: float, stage_ms: Mapping[str, float], first: bool, kept: Mapping[str, int]
    ) -> None:
        """One frame more.

        Args:
            step_ms: wall time of the whole step.
            stage_ms: wall time of each stage that ran.
            first: the step was a first frame.
            kept: tensor of positions to how many tokens it names.
        """
        for name, milliseconds in stage_ms.items():
            # A stage that nobody announced: it had not run before.
            column = self._stages.setdefault(name, array("d", [math.nan] * len(self)))
            column.append(milliseconds)
        self._step_ms.append(step_ms)
        self._first.append(first)
        for column in self._stages.values():
            column.extend([math.nan] * (len(self) - len(column)))
        for name, count in kept.items():
            self._kept.setdefault(name, array("q")).append(count)

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that ran in a frame or more, in the order they run."""
        return tuple(n for n, column in self._stages.items() if not np.isnan(column).all())

    @property
    def kept_names(self) -> tuple[str, ...]:
        """Tensors of positions, in the order they are made."""
        return tuple(self._kept)

    @property
    def first(self) -> NDArray[np.bool_]:
        """(n,) which frames are first frames."""
        return np.array(self._first, bool)

    @property
    def step_ms(self) -> NDArray[np.float64]:
        """(n,) wall time of each step."""
        return np.array(self._step_ms)

    def stage_ms(self, stage: str) -> NDArray[np.float64]:
        """(n,) time of one stage, NaN where it did not run; all NaN for an unknown one."""
        column = self._stages.get(stage)
        return np.full(len(self), np.nan) if column is None else np.array(column)

    def sum_ms(self, stages: Sequence[str]) -> NDArray[np.float64]:
        """(n,) time of several stages together, those that did not run counting nothing."""
        total = np.zeros(len(self))
        for name in stages:
            total += np.nan_to_num(self.stage_ms(name))
        return total

    def kept(self, name: str) -> NDArray[np.int64]:
        """(n,) tokens that a tensor of positions named."""
        return np.array(self._kept[name], np.int64)


def spread(values: NDArray[np.float64], first: NDArray[np.bool_]) -> Spread:
    """The spread of a stage's times; NaN entries (the stage did not run) are left out."""
    known = ~np.isnan(values)
    opening, later = values[first & known], values[~first & known]
    if not later.size:
        return Spread(_median(opening), *(math.nan,) * 5)
    p50, p90, p99 = (float(p) for p in np.percentile(later, PERCENTILES))
    return Spread(_median(opening), p50, p90, p99, float(later.max()), float(later.mean()))


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if values.size else math.nan

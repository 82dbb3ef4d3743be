"""How far two models drift apart over a video, each with its own state fed back.

For models of one pipeline in different precisions or on different backends. Values diverge once a
decision differs, so what is judged are decisions: which tokens ran, which masks were found, which
identities they got. Values under equal decisions are what every export verifies (`parity.py`).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BundleError
from vpp_deploy.parity_report import OutputDifference
from vpp_deploy.results import Tracks
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.token_maps import selections
from vpp_deploy.video.source import Frame

FEATURES = ("projected4", "projected8", "projected16", "projected32")
"""What the head is given: the backbone's result."""

_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Bounds:
    """What two precisions of one model may differ by.

    Attributes:
        tokens: smallest mean share of tokens that both keep, of each selector.
        tracks: smallest share of the tracked instances that the other found, too.
        iou: smallest mean mask IoU of those.
        ids: smallest share of those whose identities correspond.
        features: largest root mean square of a feature map's differences, as a share of its spread.
    """

    tokens: float = 0.95
    tracks: float = 0.9
    iou: float = 0.9
    ids: float = 0.9
    features: float = 0.1


@dataclass
class DriftReport:
    """What was seen so far.

    Attributes:
        frames: stepped through both.
        token_shares: selector to the share of equal tokens in each frame that it chose in.
        instances: tracked instances of both models, matched ones counted once.
        ious: mask IoU of each matched pair.
        values: feature map to its differences.
        missed: selectors that had no frame to choose in.
    """

    frames: int = 0
    token_shares: dict[str, list[float]] = field(default_factory=dict)
    instances: int = 0
    ious: list[float] = field(default_factory=list)
    values: dict[str, OutputDifference] = field(default_factory=dict)
    missed: tuple[str, ...] = ()
    _pairs: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def matched(self) -> float:
        """Share of the instances that both models found; 1 where neither found any."""
        return len(self.ious) / self.instances if self.instances else 1.0

    @property
    def mean_iou(self) -> float:
        """Of the matched pairs; NaN without any."""
        return float(np.mean(self.ious)) if self.ious else math.nan

    @property
    def same_ids(self) -> float:
        """Share of the matched pairs whose two ids belong together; NaN without any.

        Each id belongs to one other at most: the pairs seen most often are taken first.
        """
        firsts, seconds, agreeing = set[int](), set[int](), 0
        for (first, second), count in self._pairs.most_common():
            if first not in firsts and second not in seconds:
                firsts.add(first)
                seconds.add(second)
                agreeing += count
        return agreeing / self._pairs.total() if self._pairs else math.nan

    def failures(self, bounds: Bounds) -> list[str]:
        """What is outside the bounds or was not compared, a clause each."""
        found = [f"no frame followed another, so {name} was not compared" for name in self.missed]
        found += [
            f"{name} shares {np.mean(shares):.1%} of its tokens (at least {bounds.tokens:.0%})"
            for name, shares in self.token_shares.items()
            if not np.mean(shares) >= bounds.tokens
        ]
        if not self.matched >= bounds.tracks:
            found.append(
                f"{self.matched:.1%} of the instances were found by both (at least "
                f"{bounds.tracks:.0%})"
            )
        if self.ious and not self.mean_iou >= bounds.iou:
            found.append(f"their masks' mean IoU is {self.mean_iou:.3f} (at least {bounds.iou})")
        if self.ious and not self.same_ids >= bounds.ids:
            found.append(f"{self.same_ids:.1%} of their ids correspond (at least {bounds.ids:.0%})")
        for name, values in self.values.items():
            if not values.rms_ratio <= bounds.features:
                found.append(
                    f"{name} differs by {values.rms_ratio:.1e} of its spread in the mean square "
                    f"(at most {bounds.features})"
                )
        return found

    def add_tracks(self, first: Tracks, second: Tracks) -> None:
        """Matches the instances of one frame, the best overlaps first."""
        overlaps = _mask_ious(first, second)
        pairs = np.argwhere(overlaps >= _MATCH_IOU)
        order = np.argsort(-overlaps[pairs[:, 0], pairs[:, 1]], kind="stable")
        rows, columns = set[int](), set[int]()
        for i, j in pairs[order].tolist():
            if i not in rows and j not in columns:
                rows.add(i)
                columns.add(j)
                self.ious.append(float(overlaps[i, j]))
                self._pairs[int(first.ids[i]), int(second.ids[j])] += 1
        self.instances += len(first) + len(second) - len(rows)


def measure_drift(model: OpenedModel, against: OpenedModel, frames: Iterable[Frame]) -> DriftReport:
    """Steps both models through the frames.

    Raises:
        BundleError: they are not of one pipeline, so that nothing could be compared.
        BackendError: one of them fails.
    """
    _check_comparable(model, against)
    sessions = [opened.session() for opened in (model, against)]
    report = DriftReport()
    for frame in frames:
        first, second = (session.step(frame) for session in sessions)
        if not first.first:
            _add_tokens(report, model.runner, against.runner)
        for name in FEATURES:
            values = report.values.setdefault(name, OutputDifference())
            values.add(_features(model.runner, name), _features(against.runner, name))
        report.add_tracks(first.tracks, second.tracks)
        report.frames += 1
    names = [label for label, _ in selections(model.runner.spec)]
    report.missed = tuple(name for name in names if name not in report.token_shares)
    return report


def _features(runner: PipelineRunner, name: str) -> NDArray[np.float32]:
    """In float32; a device gives bfloat16, which NumPy does not have, as its bits."""
    array = runner.download(name)
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _check_comparable(model: OpenedModel, against: OpenedModel) -> None:
    one, other = model.runner, against.runner
    for what, a, b in (
        ("streams", one.batch, other.batch),
        ("inputs", one.spec.tensor("frames").shape[1:3], other.spec.tensor("frames").shape[1:3]),
        ("budgets", model.budgets, against.budgets),
        ("classes", model.classes, against.classes),
    ):
        if a != b:
            raise BundleError(
                f"{model.name} and {against.name} have different {what} ({a} and {b}); compare "
                "models of one export recipe"
            )
    if one.batch != 1:
        raise BundleError(f"{model.name} steps {one.batch} streams; compare models of one stream")


def _add_tokens(report: DriftReport, one: PipelineRunner, other: PipelineRunner) -> None:
    for label, name in selections(one.spec):
        (first,), (second,) = one.download(name), other.download(name)
        share = np.intersect1d(first, second).size / max(len(first), len(second))
        report.token_shares.setdefault(label, []).append(share)


def _mask_ious(first: Tracks, second: Tracks) -> NDArray[np.float64]:
    """(n, m) IoU of every mask with every other."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    a = first.masks.reshape(len(first), -1).astype(np.float32)
    b = second.masks.reshape(len(second), -1).astype(np.float32)
    intersection = (a @ b.T).astype(np.float64)
    union = a.sum(1)[:, None] + b.sum(1)[None] - intersection
    ious: NDArray[np.float64] = intersection / np.maximum(union, 1)
    return ious

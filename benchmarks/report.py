"""From times of single frames to the tables that are printed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vpp_deploy.results import FrameResult

BACKBONE = ("stem", "selector", "trunk", "backbone")
HEAD = ("head", "pixel decoder", "transformer decoder")
OUTSIDE_NETWORK = {
    "resize": "resize, upload",
    "upload": "resize, upload",
    "postprocess": "post-processing",
    "tracking": "tracker",
}
PARTS = ("resize, upload", "backbone", "head", "post-processing", "tracker")


@dataclass
class Series:
    """One model's frames.

    Attributes:
        name: heading of its column.
        reference: the series that its speed is a ratio to, None for a reference itself.
        dense: the series of the same kind (reference or bundle) without pruning; None if it is it.
        kept_share: share of the patches that ran, averaged over the blocks, frame by frame.
        gmacs: 10^9 multiply-accumulates of a frame, None where nobody counted.
        peak_bytes: the most memory that this model's own process took, None if not measured.
        stage_ms: milliseconds of each stage, frame by frame; the first frame is at 0.
        tracks: seen in each frame.
    """

    name: str
    reference: str | None = None
    dense: str | None = None
    kept_share: list[float] = field(default_factory=list)
    gmacs: float | None = None
    peak_bytes: int | None = None
    stage_ms: list[dict[str, float]] = field(default_factory=list)
    tracks: list[int] = field(default_factory=list)

    def add(self, result: FrameResult, kept_share: float) -> None:
        """Counts one frame."""
        self.stage_ms.append(result.stage_ms)
        self.tracks.append(len(result.tracks))
        self.kept_share.append(kept_share)

    def frame_ms(self) -> list[float]:
        """Each frame from resize to tracks, the first one apart at 0."""
        return [sum(stages.values()) for stages in self.stage_ms]

    def part_ms(self, part: str) -> float:
        """Median of one of `PARTS` over all frames but the first."""
        later = self.stage_ms[1:]
        return _median([sum(v for k, v in s.items() if part_of(k) == part) for s in later])


def part_of(stage: str) -> str:
    """The part of a frame that a stage belongs to."""
    if stage in BACKBONE:
        return "backbone"
    return "head" if stage in HEAD else OUTSIDE_NETWORK[stage]


def ratio(ours: Series, theirs: Series) -> float:
    """Median of the ratios of the same frames' times, the first frame left out."""
    times = zip(ours.frame_ms()[1:], theirs.frame_ms()[1:], strict=True)
    return _median([mine / other for mine, other in times])


def _median(values: Sequence[float]) -> float:
    return float(np.median(np.array(values)))


def rows(series: Sequence[Series]) -> list[list[str]]:
    """The table: a heading row, then a row for each figure, a column for each model."""
    by_name = {one.name: one for one in series}

    def against(one: Series, other: str | None) -> str:
        return "-" if other is None else f"{ratio(one, by_name[other]):.3f}"

    figures: list[tuple[str, Callable[[Series], str]]] = [
        (f"{part}, ms", lambda s, part=part: f"{s.part_ms(part):.0f}")  # type: ignore[misc]
        for part in PARTS
    ]
    figures += [
        ("**frame, ms**", lambda s: f"**{_median(s.frame_ms()[1:]):.0f}**"),
        ("first frame, ms", lambda s: f"{s.frame_ms()[0]:.0f}"),
        ("frame / its reference", lambda s: against(s, s.reference)),
        ("frame / dense", lambda s: against(s, s.dense)),
        ("patches run", lambda s: f"{np.mean(s.kept_share[1:]):.1%}"),
        ("GMAC", lambda s: "-" if s.gmacs is None else f"{s.gmacs:.0f}"),
        (
            "peak memory, MB",
            lambda s: "-" if s.peak_bytes is None else f"{s.peak_bytes / 1e6:.0f}",
        ),
    ]
    return [
        ["", *(one.name for one in series)],
        *([label, *(value(one) for one in series)] for label, value in figures),
    ]


def stage_rows(series: Sequence[Series]) -> list[list[str]]:
    """Medians of every single stage, in the order they run."""
    longest_first = sorted(series, key=lambda one: -len(one.stage_ms[-1]))
    names = dict.fromkeys(name for one in longest_first for name in one.stage_ms[-1])
    table = [["stage, ms", *(one.name for one in series)]]
    for name in sorted(names, key=lambda name: PARTS.index(part_of(name))):
        cells = [[s[name] for s in one.stage_ms[1:] if name in s] for one in series]
        table.append([name, *(f"{_median(cell):.1f}" if cell else "-" for cell in cells)])
    return table


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read as it is, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    heading, *body = (
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in table)
    )
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rule, *body))

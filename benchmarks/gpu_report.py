"""The report of the GPU benchmark: rows that fill up one by one, as JSON and as Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_methods import COMPILED_REFERENCE
from benchmarks.report import as_markdown

NOT_RUN = "not run"


@dataclass
class Row:
    """A case by a method.

    Attributes:
        case: its name.
        method: its name.
        precision: "fp16" or "fp32".
        batch: streams that a frame's time is for.
        status: "not run", "failed" or "timed".
        reason: why it was not run or failed.
        kind: what ran, for people to read.
        correct: what `gpu_checks.verdict` says; empty: it did not come to that.
        checks: what was compared, and what was seen.
        open_s: from nothing to a model that is ready, what it is made from being there or made.
        first_ms: of the very first frame.
        warm_up_s: of the frames until it is timed, compilation included.
        frame_ms: wall time of each frame that was timed.
        host_ms: the host's laps of each of these frames.
        stage_ms: stage to device time of each frame that was timed by stages.
        turns: how often it was its turn; 0: timed by itself alone.
        notes: what else there is to say.
    """

    case: str
    method: str
    precision: str
    batch: int
    status: str = NOT_RUN
    reason: str = ""
    kind: str = ""
    correct: str = ""
    checks: list[dict[str, Any]] = field(default_factory=list)
    open_s: float = 0.0
    first_ms: float = 0.0
    warm_up_s: float = 0.0
    frame_ms: list[float] = field(default_factory=list)
    host_ms: dict[str, list[float]] = field(default_factory=dict)
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    turns: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def p50(self) -> float:
        """Median of the frames."""
        return percentile(self.frame_ms, 50)

    def network_ms(self) -> float:
        """Device time of all stages but `masks`, which the reference has outside of its network."""
        return sum(percentile(ms, 50) for name, ms in self.stage_ms.items() if name != "masks")


@dataclass
class Report:
    """Everything that is known so far.

    Attributes:
        setting: the command and what it was asked.
        machine: before the first row.
        machine_after: after the last one.
        peaks: measured rates of the device.
        acceptance: backend to whether it accepts this GPU.
        floors: case to stage to what it takes at least, see `gpu.py`.
        rows: in the order they are run.
    """

    setting: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    machine_after: dict[str, Any] = field(default_factory=dict)
    peaks: dict[str, Any] = field(default_factory=dict)
    acceptance: dict[str, Any] = field(default_factory=dict)
    floors: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes `path`, as JSON, and the tables beside it, as Markdown."""
        document = asdict(self)
        for row, own in zip(document["rows"], self.rows, strict=True):
            row["frame_ms"] = _summary(own.frame_ms)
            for name in ("host_ms", "stage_ms"):
                row[name] = {k: _summary(v) for k, v in getattr(own, name).items()}
        # Whole or not at all: whoever lends the GPU may end this process at any time.
        for file, text in (
            (path, json.dumps(document, indent=1)),
            (path.with_suffix(".md"), self.markdown()),
        ):
            aside = file.with_name(f"{file.name}.part")
            aside.write_text(text + "\n")
            aside.replace(file)

    def markdown(self) -> str:
        """All tables."""
        parts = [f"`{self.setting['command']}`", self._machine(), self._frames()]
        if any(row.checks for row in self._timed):
            parts.append(self._correctness())
        parts += [self._stages(case) for case in dict.fromkeys(row.case for row in self._timed)]
        if others := self._others():
            parts.append(others)
        return "\n\n".join(parts)

    @property
    def _timed(self) -> list[Row]:
        return [row for row in self.rows if row.frame_ms]

    def _machine(self) -> str:
        lines = [f"- {label}: {value}" for label, value in self.machine.items()]
        for label, value in self.machine_after.items():
            if self.machine.get(label) != value:
                lines.append(f"- {label}, at the end: {value}")
        for label, value in self.peaks.items():
            scale, unit = (1e9, "GB/s") if "bytes" in label else (1e12, "TFLOP/s")
            lines.append(f"- {label}, measured: {value / scale:.3g} {unit}")
        for backend, answer in self.acceptance.items():
            said = "yes" if answer["accepted"] else f"no: {answer['answer']}"
            lines.append(f"- {backend} accepts this device: {said}")
        return "\n".join(lines)

    def _frames(self) -> str:
        heading = "model,method,correct,p50 ms,p90 ms,p99 ms,frames/s,first ms,network ms"
        table = [[*heading.split(","), "frame / compiled", "network / compiled"]]
        for row in self._timed:
            base = next(
                (r for r in self._timed if (r.case, r.method) == (row.case, COMPILED_REFERENCE)),
                None,
            )
            name = row.method if row.turns else f"{row.method} (not in turns)"
            ratios = ["-", "-"]
            if base is not None:
                ratios = [
                    f"{row.p50() / base.p50():.3f}",
                    f"{row.network_ms() / base.network_ms():.3f}",
                ]
            table.append(
                [
                    row.case,
                    name,
                    row.correct.partition(":")[0],
                    *(f"{percentile(row.frame_ms, p):.2f}" for p in (50, 90, 99)),
                    f"{row.batch * 1e3 / row.p50():.0f}",
                    f"{row.first_ms:.1f}",
                    f"{row.network_ms():.2f}",
                    *ratios,
                ]
            )
        wrong = [
            f"- {row.case}, {row.method}: correct: {row.correct}"
            for row in self._timed
            if row.correct != "yes"
        ]
        about = (
            "Whole frames, wall time; network: device time of the stages without masks; compiled: "
            f"over '{COMPILED_REFERENCE}' of the same model.\n\n"
        )
        return about + "\n".join([as_markdown(table), "", *wrong]).strip()

    def _correctness(self) -> str:
        """What was seen of every comparison; a share that nobody could take is a dash."""
        heading = "model,method,against,frames,tokens,features,found by both,IoU,ids"
        table = [heading.split(",")]
        for row in self._timed:
            for check in row.checks:
                seen = check["figures"]
                table.append(
                    [
                        row.case,
                        row.method,
                        check["against"],
                        str(seen.get("frames", "-")),
                        _share(min(seen.get("equal tokens", {}).values(), default=None)),
                        _scientific(max(seen.get("features", {}).values(), default=None)),
                        *(_share(seen.get(k)) for k in ("found by both", "mean IoU")),
                        _share(seen.get("same identity")),
                    ]
                )
        return (
            f"Correctness, by {self.setting['bounds']}: the least share of equal tokens of a "
            "selector, the largest root mean square of a feature map's differences as a share of "
            f"its spread.\n\n{as_markdown(table)}"
        )

    def _stages(self, case: str) -> str:
        """Every stage of a case by device time, beside what it takes at least."""
        rows = [row for row in self._timed if row.case == case]
        floors = self.floors.get(case, {})
        names = dict.fromkeys([*floors, *(name for row in rows for name in row.stage_ms)])
        table = [["stage, p50 / p90 / p99 ms", "products", "memory", *(r.method for r in rows)]]
        for name in names:
            floor = floors.get(name, {})
            line = [name]
            line += [f"{floor[key]:.3f}" if floor else "-" for key in ("products_ms", "memory_ms")]
            table.append([*line, *(_three(row.stage_ms.get(name)) for row in rows)])
        return (
            f"{case}, stages, device time; products and memory: what a stage takes at least in "
            f"fp16, by the measured rates.\n\n{as_markdown(table)}"
        )

    def _others(self) -> str:
        lines = [
            f"- {row.case}, {row.method}: {row.status}: {row.reason}"
            for row in self.rows
            if row.status != "timed"
        ]
        lines += [
            f"- {row.case}, {row.method}: {label}: {value}"
            for row in self._timed
            for label, value in row.notes.items()
        ]
        return "\n".join(lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """Of one value or more."""
    return float(np.percentile(np.array(values), percent))


def _scientific(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = {f"p{p}": percentile(values, p) for p in (50, 90, 99)}
    return {"frames": len(values), **found}


def _three(values: Sequence[float] | None) -> str:
    if not values:
        return "-"
    return " / ".join(f"{percentile(values, p):.2f}" for p in (50, 90, 99))

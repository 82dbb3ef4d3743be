"""A finished profile: the timed pass, the second one, and what they were taken with."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.profiling.measure import ModelProfile, Timing
from vpp_deploy.profiling.nodes import NodePass, NodeTime
from vpp_deploy.profiling.ratios import compare, parts_of, per_second
from vpp_deploy.profiling.samples import spread

SCHEMA = 1
_NUM_NODES = 50
_STALL = 5

Load = tuple[float, float, float] | None


@dataclass(frozen=True)
class ProfileReport:
    """All that the tables, the JSON file and the page are made of.

    Attributes:
        timing: the timed pass.
        passes: the second pass over each model; empty if it was not asked for.
        environment: label to value.
        command: the command line.
        started: date and time with time zone, ISO 8601.
        load_before, load_after: load averages around the timed pass; None where not known.
    """

    timing: Timing
    passes: Sequence[NodePass]
    environment: dict[str, str]
    command: str
    started: str
    load_before: Load
    load_after: Load

    @property
    def first_frames(self) -> int:
        """First frames of the video among those timed."""
        return int(self.timing.models[0].samples.first.sum())

    def notes(self) -> list[str]:
        """What a reader should know before the figures."""
        timing = self.timing
        notes = list(timing.notes)
        if timing.loops:
            notes.append(
                f"the video was started again {timing.loops} times as it ended, the temporal state "
                f"reset; those {self.first_frames} first frames are apart from the others"
            )
        if len(timing.models[0].samples) == self.first_frames:
            notes.append("every timed frame is a first one: there is no figure for the others")
        if not timing.warmup:
            notes.append("without a warm-up, the first frame includes what is done only once")
        notes += [note for model in timing.models for note in _stalls(model)]
        if self.load_before is not None and self.load_before[0] > 0.5:
            notes.append(
                f"the machine was not idle at the start (load average {self.load_before[0]:.2f}): "
                "trust ratios, not times"
            )
        return notes

    def nodes_of(self, model: ModelProfile) -> NodePass | None:
        """The second pass over this model."""
        return next((one for one in self.passes if one.label == model.label), None)

    def to_json(self) -> dict[str, Any]:
        """The raw samples and everything computed from them; None stands for "there is none"."""
        timing = self.timing
        decode = timing.decode_ms
        return {
            "schema": SCHEMA,
            "command": self.command,
            "started": self.started,
            "environment": self.environment,
            "load_average": {"start": self.load_before, "end": self.load_after},
            "video": timing.video,
            "frame_size": timing.frame_size,
            "warmup_frames": timing.warmup,
            "frames": len(decode),
            "first_frames": self.first_frames,
            "notes": self.notes(),
            "decode_ms": {
                **_spread(decode, timing.models[0].samples.first),
                "samples": _numbers(decode),
            },
            "memory": {
                "peak_bytes": timing.peak_bytes,
                "resident_bytes": [
                    None if math.isnan(held) else int(held) for held in timing.resident_bytes
                ],
            },
            "models": [self._model(model) for model in timing.models],
            "ratios": [
                {
                    "model": model.label,
                    "of": timing.models[0].label,
                    "parts": [
                        {
                            "part": ratio.part,
                            "latency": _number(ratio.latency, 4),
                            "operations": _number(ratio.operations, 4),
                            "saving_in_latency_of_saving_in_operations": _number(
                                ratio.came_true, 4
                            ),
                        }
                        for ratio in compare(timing.models[0], model)
                    ],
                }
                for model in timing.models[1:]
            ],
        }

    def _model(self, model: ModelProfile) -> dict[str, Any]:
        samples, second = model.samples, self.nodes_of(model)
        operations = model.operations
        return {
            "label": model.label,
            "path": model.path,
            "kind": model.kind,
            "sha256": model.sha256,
            "batch": model.batch,
            "input_size": model.input_size,
            "tokens": model.num_tokens,
            "budgets": model.budgets,
            "load_ms": _number(model.load_ms),
            "load_bytes": model.load_bytes,
            "first_call_ms": _number(model.first_call_ms),
            "frames_per_s": _number(per_second(model)),
            "parts": [
                {
                    "part": part.part,
                    **{f"{name}_ms": _number(value) for name, value in asdict(part.ms).items()},
                    "macs": part.macs,
                    "macs_first_frame": part.macs_first_frame,
                    "gmacs_per_s": _number(part.gmacs_per_s),
                }
                for part in parts_of(model)
            ],
            "operations": None
            if operations is None
            else {stage: asdict(counted) for stage, counted in operations.items()},
            "samples": {
                "first": samples.first.tolist(),
                "step_ms": _numbers(samples.step_ms),
                "stage_ms": {name: _numbers(samples.stage_ms(name)) for name in samples.stages},
                "tokens_kept": {name: samples.kept(name).tolist() for name in samples.kept_names},
            },
            "stages_waited_for_ms": None
            if second is None
            else {name: _number(ms) for name, ms in second.stages().items()},
            "operators": None if second is None else _nodes(second.operators()),
            "nodes": None if second is None else _nodes(second.nodes()),
        }


def _stalls(model: ModelProfile) -> Iterator[str]:
    """A frame that took far longer than the others is to be explained, not to be averaged."""
    samples = model.samples
    later = np.where(samples.first, np.nan, samples.step_ms)
    if samples.first.all():
        return
    slowest, usual = int(np.nanargmax(later)), float(np.nanmedian(later))
    if later[slowest] > _STALL * usual:
        most = max(samples.stages, key=lambda name: np.nan_to_num(samples.stage_ms(name)[slowest]))
        yield (
            f"{model.label}: frame {slowest} took {later[slowest] / usual:.0f} times the median, "
            f"most of it in {most}: frames a second, p99 and max say little"
        )


def _nodes(nodes: Sequence[NodeTime]) -> list[dict[str, Any]]:
    return [
        asdict(node) | {"ms": _number(node.ms, 4), "share": _number(node.share, 4)}
        for node in nodes[:_NUM_NODES]
    ]


def _spread(values: NDArray[np.float64], first: NDArray[np.bool_]) -> dict[str, float | None]:
    return {name: _number(v) for name, v in asdict(spread(values, first)).items()}


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float, digits: int = 3) -> float | None:
    return None if math.isnan(value) else round(value, digits)

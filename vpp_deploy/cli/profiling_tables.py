"""A profile in the terminal."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from vpp_deploy.cli.console import note, say, show
from vpp_deploy.profiling.measure import ModelProfile, Timing
from vpp_deploy.profiling.nodes import NodePass, NodeTime
from vpp_deploy.profiling.ratios import PartTime, compare, parts_of, per_second
from vpp_deploy.profiling.report import ProfileReport
from vpp_deploy.profiling.samples import spread
from vpp_deploy.runtime.clock import DEVICE

_NUM_NODES = 10


def print_report(report: ProfileReport) -> None:
    """Every table, then what to know of them."""
    timing = report.timing
    apart = report.first_frames
    say(
        f"{len(timing.decode_ms) - apart} frames of {timing.video} (first frames apart: {apart}, "
        f"warm-up: {timing.warmup}); decoding is not part of the whole frame"
    )
    for model in timing.models:
        say(_described(model))
        show(_latency(model, timing))
    baseline = timing.models[0]
    for model in timing.models[1:]:
        show(_ratios(baseline, model))
    for model in timing.models:
        second = report.nodes_of(model)
        if second is not None and DEVICE in model.samples.stages:
            show(_waited_for(model, second))
        if second is not None and second.runs:
            for title, found in (
                ("operators", second.operators()),
                ("nodes", second.nodes()),
            ):
                show(_slowest(f"{model.label}: slowest {title}", found))
    say(_memory(timing))
    for text in report.notes():
        note(text)


def _described(model: ModelProfile) -> str:
    held = "" if model.load_bytes is None else f" and {model.load_bytes / 1e6:.0f} MB"
    tokens = "" if model.budgets is None else ", tokens " + "/".join(map(str, model.budgets))
    streams = "" if model.batch == 1 else f", {model.batch} streams a step"
    height, width = model.input_size
    return (
        f"{model.path}: {model.kind}, input {height}x{width}{tokens}{streams}; loaded in "
        f"{model.load_ms / 1e3:.2f} s{held}, first call {model.first_call_ms:.1f} ms, "
        f"{per_second(model):.2f} frames/s"
    )


def _latency(model: ModelProfile, timing: Timing) -> Table:
    counted = model.operations is not None
    step = "milliseconds" if model.batch == 1 else f"milliseconds a step of {model.batch} streams"
    table = _table(
        f"{model.label}, {step}",
        "stage",
        *("first frame", "p50", "p90", "p99", "max"),
        *(("p50 a frame",) if model.batch > 1 else ()),
        *(("GMAC", "GMAC/s") if counted else ()),
    )
    parts = parts_of(model)
    if not np.isnan(timing.decode_ms).all():
        decode = spread(timing.decode_ms, model.samples.first)
        parts.insert(0, PartTime("decode", decode, None, None))
    for part in parts:
        ms = part.ms
        cells = [_ms(value) for value in (ms.first, ms.p50, ms.p90, ms.p99, ms.max)]
        if model.batch > 1:
            # A frame is decoded once, whatever the number of streams that are given it.
            cells.append(_ms(ms.p50 if part.part == "decode" else ms.p50 / model.batch))
        if counted:
            gmacs = "" if part.macs is None else f"{part.macs / 1e9:.3f}"
            rate = part.gmacs_per_s
            cells += [gmacs, "" if math.isnan(rate) else f"{rate:.1f}"]
        table.add_row(escape(part.part), *cells)
    if not counted:
        table.caption = "operations were not counted: PyTorch counts them in the second pass"
    return table


def _ratios(baseline: ModelProfile, model: ModelProfile) -> Table:
    table = _table(
        f"{model.label} of {baseline.label}, a stream's frame",
        *("part", "latency", "operations", "saving in latency / in operations"),
    )
    for ratio in compare(baseline, model):
        cells = (ratio.latency, ratio.operations, ratio.came_true)
        table.add_row(escape(ratio.part), *("-" if math.isnan(v) else f"{v:.3f}" for v in cells))
    table.caption = "latency: median over frames of the ratio on the same frame"
    return table


def _waited_for(model: ModelProfile, second: NodePass) -> Table:
    table = _table(f"{model.label}: stages, each waited for", "stage", "ms a step")
    for stage, ms in second.stages().items():
        table.add_row(escape(stage), _ms(ms))
    table.caption = "waiting costs time of its own: the whole frame is what the timed pass says"
    return table


def _slowest(title: str, found: Sequence[NodeTime]) -> Table:
    table = _table(f"{title}, profiler on", "stage", "operator", "node", "ms a step", "share")
    for node in found[:_NUM_NODES]:
        names: Iterable[str] = map(escape, (node.stage, node.operator, node.name))
        table.add_row(*names, f"{node.ms:.3f}", f"{node.share:.1%}")
    return table


def _memory(timing: Timing) -> str:
    held = timing.resident_bytes / 1e6
    peak = "unknown" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e6:.0f} MB"
    text = f"memory of the process: peak {peak}"
    if not np.isnan(held).any():
        text += f"; {held[0]:.0f} MB after the first timed frame, {held[-1]:.0f} MB after the last"
    return text


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=escape(title))
    table.add_column(first)
    names = ("operator", "node")
    for column in others:
        table.add_column(column, justify="left" if column in names else "right", overflow="fold")
    return table


def _ms(milliseconds: float) -> str:
    return "-" if math.isnan(milliseconds) else f"{milliseconds:.2f}"

"""One page for a profile: it asks no network for anything, and runs no script."""

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from vpp_deploy.pages.document import render_document
from vpp_deploy.profiling import figures, latency_figures
from vpp_deploy.profiling.measure import ModelProfile
from vpp_deploy.profiling.nodes import NodeTime
from vpp_deploy.profiling.ratios import (
    BACKBONE,
    FRAME,
    GRAPHS,
    PartTime,
    compare,
    parts_of,
    per_second,
)
from vpp_deploy.profiling.report import ProfileReport
from vpp_deploy.profiling.samples import spread

_NUM_NODES = 20
_SUMS = (BACKBONE, GRAPHS, FRAME)
_SUM = ' class="sum"'

Cell = str | float


def render_page(report: ProfileReport) -> str:
    """The whole document; every text that comes from a file is escaped."""
    timing = report.timing
    names = " and ".join(model.label for model in timing.models)
    title = f"Profile of {names}"
    later = len(timing.decode_ms) - report.first_frames
    intro = (
        f"{later} frames of {timing.video}, first frames apart ({report.first_frames}), after a "
        f"warm-up of {timing.warmup}. Several models are stepped in turn, frame by frame. A step "
        "is timed from resizing to tracking: decoding is not part of it."
    )
    body = [
        f"<h1>{escape(title)}</h1><p>{escape(intro)}</p>",
        _cards(timing.models),
        _notes(report),
        _latency(report),
        _comparison(timing.models),
        _tokens(timing.models),
        _memory(report),
        _slowest(report),
        _environment(report),
    ]
    return render_document(title, body)


def _cards(models: Sequence[ModelProfile]) -> str:
    cards = []
    for model in models:
        ms = spread(model.samples.step_ms, model.samples.first)
        graphs = next(part for part in parts_of(model) if part.part == GRAPHS)
        height, width = model.input_size
        facts = {
            "frames a second": _cell(per_second(model), 2),
            "p90 / p99 / max": " / ".join(_cell(v, 1) for v in (ms.p90, ms.p99, ms.max)) + " ms",
            "first frame of a video": f"{_cell(ms.first, 1)} ms",
            "first call after loading": f"{_cell(model.first_call_ms, 1)} ms",
            "loading": f"{model.load_ms / 1e3:.2f} s{_held(model.load_bytes)}",
            "multiply-accumulates": "not counted"
            if graphs.macs is None
            else f"{graphs.macs / 1e9:.3f} G, {_cell(graphs.gmacs_per_s, 1)} G/s",
            "input": f"{height}x{width}, {model.num_tokens} tokens"
            + (f", {model.batch} streams a step" if model.batch > 1 else ""),
        }
        rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
        cards.append(
            f'<div class="card"><h3>{escape(model.label)}</h3><p>{escape(model.kind)}</p>'
            f'<p class="big">{_cell(ms.p50, 1)} ms</p><p>median of a step</p><dl>{rows}</dl></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _held(load_bytes: int | None) -> str:
    return "" if load_bytes is None else f", {load_bytes / 1e6:.0f} MB"


def _notes(report: ProfileReport) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in report.notes())
    return f'<div class="notes"><ul>{items}</ul></div>' if items else ""


def _latency(report: ProfileReport) -> str:
    models = report.timing.models
    styles = latency_figures.stage_styles(models)
    parts = [
        "<h2>Latency</h2><p>Where the time of a frame goes: the median of each stage, stacked.</p>",
        _legend(styles),
        latency_figures.summary(models, styles),
        "<h2>Latency over the frames</h2><p>On one scale for all models.</p>",
        _legend(styles),
    ]
    limit_ms = latency_figures.readable_limit(models)
    for model in models:
        parts.append(f"<h3>{escape(model.label)}</h3>")
        parts.append(latency_figures.by_frame(model, styles, limit_ms))
    spreads = latency_figures.distribution(models, limit_ms)
    if spreads:
        parts.append(f"<h2>How latency is spread</h2><p>Histograms on one scale.</p>{spreads}")
    parts.append("<h2>Latency and operations in figures</h2>")
    parts.append(
        "<p>Milliseconds a step. Multiply-accumulates (MAC) are those of convolutions and matrix "
        "products in mid-video, and G/s what of them is done in a second at the median.</p>"
    )
    for model in models:
        parts += [f"<h3>{escape(model.label)}</h3>", _latency_table(report, model)]
    return "\n".join(parts)


def _latency_table(report: ProfileReport, model: ModelProfile) -> str:
    decode = report.timing.decode_ms
    shown = parts_of(model)
    if not np.isnan(decode).all():
        shown.insert(0, PartTime("decode", spread(decode, model.samples.first), None, None))
    rows: list[Sequence[Cell]] = []
    for part in shown:
        ms = part.ms
        counts = (part.macs, part.macs_first_frame)
        gmacs = ["" if macs is None else f"{macs / 1e9:.3f}" for macs in counts]
        times = [_cell(v, 2) for v in (ms.first, ms.p50, ms.p90, ms.p99, ms.max)]
        share = ms.p50 if part.part == "decode" else ms.p50 / model.batch
        each = [_cell(share, 2)] if model.batch > 1 else []
        rate = "" if math.isnan(part.gmacs_per_s) else _cell(part.gmacs_per_s, 1)
        rows.append((part.part, *times, *each, *gmacs, rate))
    heads = ["stage", "first frame", "p50", "p90", "p99", "max"]
    heads += ["p50 a stream's frame"] if model.batch > 1 else []
    return _table([*heads, "GMAC", "GMAC first frame", "GMAC/s"], rows, 1)


def _comparison(models: Sequence[ModelProfile]) -> str:
    if len(models) == 1:
        return ""
    baseline = models[0]
    parts = [
        f"<h2>Compared with {escape(baseline.label)}</h2>",
        "<p>Latency is the median over the frames of the ratio of two times taken on the same "
        "frame, one right after the other, so a machine that slows down changes it little. The "
        "last column says how much of the saving in operations came true as a saving in time.</p>",
    ]
    for model in models[1:]:
        ratios = compare(baseline, model)
        parts.append(f"<h3>{escape(model.label)}</h3>")
        chart = figures.savings(ratios)
        if chart:
            parts += [_legend({"operations": "c0", "latency": "c4"}), chart]
        rows = [
            (r.part, *(_cell(v, 3) for v in (r.latency, r.operations, r.came_true))) for r in ratios
        ]
        heads = ["part", "latency", "operations", "saving in latency / in operations"]
        parts.append(_table(heads, rows, 1))
    return "\n".join(parts)


def _tokens(models: Sequence[ModelProfile]) -> str:
    charts = "".join(
        f"<div><h3>{escape(model.label)}</h3>"
        f"{figures.tokens(model, latency_figures.model_style(i))}</div>"
        for i, model in enumerate(models)
    )
    return (
        "<h2>Tokens kept</h2><p>Patch tokens that run in each block of the backbone, first frames "
        "left out. Where the number varies, the bar is its mean and the line spans least to most."
        f'</p><div class="pair">{charts}</div>'
    )


def _memory(report: ProfileReport) -> str:
    chart = figures.memory(report.timing)
    return (
        "<h2>Memory</h2><p>What the process held after each timed frame. A curve that goes on "
        f"climbing is a leak.</p>{chart}"
        if chart
        else ""
    )


def _slowest(report: ProfileReport) -> str:
    parts = []
    for model in report.timing.models:
        second = report.nodes_of(model)
        if second is None or not second.runs:
            continue
        heads = ["stage", "operator", "nodes", "ms a step", "share of all nodes"]
        parts.append(f"<h3>{escape(model.label)}, operators</h3>")
        parts.append(_table(heads, map(_node_row, second.operators()[:_NUM_NODES]), 3))
        parts.append(f"<h3>{escape(model.label)}, nodes</h3>")
        heads[2] = "node"
        parts.append(_table(heads, map(_node_row, second.nodes()[:_NUM_NODES]), 3))
    if not parts:
        return ""
    return (
        "<h2>Slowest operations</h2><p>From a second pass with ONNX Runtime's profiler, which "
        "slows every node: compare nodes with each other, not with the times above. Names are "
        "those of the graph as ONNX Runtime fused it.</p>" + "\n".join(parts)
    )


def _node_row(node: NodeTime) -> Sequence[Cell]:
    return (node.stage, node.operator, node.name, f"{node.ms:.3f}", node.share)


def _environment(report: ProfileReport) -> str:
    def load(value: tuple[float, float, float] | None) -> str:
        return "unknown" if value is None else ", ".join(f"{v:.2f}" for v in value)

    facts = {
        "started": report.started,
        "command": report.command,
        **report.environment,
        "load average at the start": load(report.load_before),
        "load average at the end": load(report.load_after),
    }
    models = [(m.label, f"{m.path}, SHA-256 {m.sha256}") for m in report.timing.models]
    pairs = [*facts.items(), *models]
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs)
    return f"<h2>Environment</h2><dl>{rows}</dl>"


def _legend(styles: dict[str, str]) -> str:
    items = "".join(
        f'<li><i class="{style}"></i>{escape(name)}</li>' for name, style in styles.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], num_text: int) -> str:
    """The first `num_text` columns are text; a cell that is a number is a share, shown as a bar."""

    def style(column: int) -> str:
        return ' class="text name"' if column < num_text else ""

    def shown(cell: Cell) -> str:
        if isinstance(cell, str):
            return escape(cell)
        return f'{cell:.1%}<span class="bar"><i style="width:{cell:.1%}"></i></span>'

    head = "".join(f"<th{style(i)}>{escape(name)}</th>" for i, name in enumerate(heads))
    lines = []
    for row in rows:
        cells = "".join(f"<td{style(i)}>{shown(cell)}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr{_SUM if row[0] in _SUMS else ''}>{cells}</tr>")
    body = "".join(lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"

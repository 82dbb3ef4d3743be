"""Pictures of time: where a frame's goes, how it varies, how it is spread."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.pages.svg import PALETTE, Axis, Svg, number, shortened, x_axis, y_axis
from vpp_deploy.profiling.measure import ModelProfile
from vpp_deploy.profiling.samples import spread

WIDTH = 900
OTHER = "between stages"

_LEFT = 170
_RIGHT = WIDTH - 74
_ROW = 30
_MOST_COLUMNS = 120
_FIRST_MODEL = 2  # the colours before it are greys, for the stages before the graphs
_BINS = 60
_MOST_OF_P90 = 2.5


def stage_styles(models: Sequence[ModelProfile]) -> dict[str, str]:
    """Stage to its class, the same in every picture of the page; in the order they run."""
    longest_first = sorted((model.samples.stages for model in models), key=len, reverse=True)
    names = dict.fromkeys(name for stages in longest_first for name in stages)
    return {name: f"c{i % PALETTE}" for i, name in enumerate(names)} | {OTHER: "other"}


def summary(models: Sequence[ModelProfile], styles: dict[str, str]) -> str:
    """Two bars a model, of stages' medians: frames in mid-video, and first frames."""
    rows = []
    for model in models:
        first = model.samples.first
        for name, chosen in (("later frames", ~first), ("first frame", first)):
            if chosen.any():
                parts = _parts(model, chosen, np.median)
                rows.append((model, name, parts, float(np.median(model.samples.step_ms[chosen]))))
    axis = Axis(0, max(sum(parts.values()) for _, _, parts, _ in rows), _LEFT, _RIGHT)
    bottom = 8 + len(rows) * _ROW
    svg = Svg(WIDTH, bottom + 42, "median time of each stage, stacked, two bars a model")
    x_axis(svg, axis, bottom, 4, "milliseconds a step")
    for row, (model, name, parts, whole_ms) in enumerate(rows):
        y = 8 + row * _ROW
        if name == "later frames":
            svg.text(8, y + 15, shortened(model.label, 22), style="strong")
        svg.text(_LEFT - 8, y + 15, "" if name == "later frames" else name, "end", "tick")
        reached = 0.0
        for stage, ms in parts.items():
            tip = f"{model.label}, {name}, {stage}: {ms:.2f} ms"
            svg.rect(axis(reached), y, axis(reached + ms) - axis(reached), 22, styles[stage], tip)
            reached += ms
        svg.text(axis(reached) + 6, y + 15, f"{number(round(whole_ms, 1))} ms", style="value")
    return svg.render()


def readable_limit(models: Sequence[ModelProfile]) -> float:
    """Milliseconds up to which pictures go.

    One frame in which something else took the machine would leave nothing of the others to see.
    """
    highest = max(float(model.samples.step_ms.max()) for model in models)
    usual = max(float(np.percentile(model.samples.step_ms, 90)) for model in models)
    return min(highest, _MOST_OF_P90 * usual)


def by_frame(model: ModelProfile, styles: dict[str, str], limit_ms: float) -> str:
    """A stacked column a frame, or one for several where there are too many to be told apart.

    What is above `limit_ms` is cut off, and said.
    """
    samples = model.samples
    count = len(samples)
    size = -(-count // _MOST_COLUMNS)
    left, top, bottom = 64, 46, 226
    frames, times = Axis(0, count, left, WIDTH - 12), Axis(0, limit_ms, bottom, top)
    svg = Svg(WIDTH, bottom + 42, f"time of each stage of {model.label}, stacked, over the frames")
    y_axis(svg, times, left, WIDTH - 12, "milliseconds a step")
    gap = 1 if (frames(size) - frames(0)) > 4 else 0
    for begin in range(0, count, size):
        chosen = np.zeros(count, bool)
        chosen[begin : begin + size] = True
        end = min(begin + size, count)
        which = f"frame {begin}" if size == 1 else f"frames {begin} to {end - 1}"
        middle = (frames(begin) + frames(end)) / 2
        reached = 0.0
        for stage, ms in _parts(model, chosen, np.mean).items():
            low, high = (times(min(value, limit_ms)) for value in (reached, reached + ms))
            tip = f"{which}, {stage}: {ms:.2f} ms"
            width = frames(end) - frames(begin) - gap
            svg.rect(frames(begin), high, width, low - high, styles[stage], tip)
            reached += ms
        if reached > limit_ms:
            anchor = "end" if middle > WIDTH / 2 else "start"
            svg.text(middle, top - 4, f"↑ {number(round(reached))}", anchor, "value")
        if samples.first[chosen].any():
            triangle = [(middle, bottom + 2), (middle - 4, bottom + 8), (middle + 4, bottom + 8)]
            svg.path(triangle, "mark", closed=True, tip=f"{which}: first frame")
    for tick in frames.ticks(10):
        if tick == int(tick) and tick < count:
            svg.text(frames(tick + 0.5), bottom + 22, number(tick), "middle", "tick")
    label = "frame (▲ first frame)" if size == 1 else f"frame (▲ first; mean of {size} a column)"
    svg.text(WIDTH - 12, bottom + 38, label, "end", "label")
    return svg.render()


def distribution(models: Sequence[ModelProfile], limit_ms: float) -> str:
    """A histogram a model on one scale, first frames left out, with p50, p90 and p99.

    What is beyond `limit_ms` is counted at the end of its row.
    """
    shown = [(i, model) for i, model in enumerate(models) if not model.samples.first.all()]
    if not shown:
        return ""
    times = {model.label: model.samples.step_ms[~model.samples.first] for _, model in shown}
    low = min(float(t.min()) for t in times.values())
    high = max(low, min(limit_ms, max(float(t.max()) for t in times.values())))
    margin = max(high - low, high * 0.02) * 0.04
    axis = Axis(max(low - margin, 0), high + margin, _LEFT, _RIGHT)
    edges = np.linspace(axis.low, axis.high, _BINS + 1)
    height = 76
    bottom = 8 + len(shown) * height
    svg = Svg(WIDTH, bottom + 42, "histogram of the time of a step, one row a model")
    x_axis(svg, axis, bottom, 4, "milliseconds a step, first frames left out")
    for row, (i, model) in enumerate(shown):
        base = 8 + (row + 1) * height - 6
        counts, _ = np.histogram(times[model.label], edges)
        svg.text(8, base - 28, shortened(model.label, 22), style="strong")
        svg.line(_LEFT, base, _RIGHT, base, "rule")
        for bin_index, bin_count in enumerate(counts.tolist()):
            if bin_count:
                begin, end = edges[bin_index], edges[bin_index + 1]
                tall = bin_count / counts.max() * (height - 30)
                tip = f"{bin_count} frames from {begin:.1f} to {end:.1f} ms"
                x = axis(begin)
                svg.rect(x, base - tall, axis(end) - x - 0.5, tall, model_style(i), tip)
        _percentiles(svg, axis, model, base, height)
        beyond = int((times[model.label] > axis.high).sum())
        if beyond:
            svg.text(_RIGHT + 4, base - 4, f"{beyond} beyond", style="tick")
    return svg.render()


def _percentiles(svg: Svg, axis: Axis, model: ModelProfile, base: float, height: float) -> None:
    """Marked above the histogram; a label that would touch the one before it is left out."""
    seen = spread(model.samples.step_ms, model.samples.first)
    free_from = -1e9
    for name, ms in (("p50", seen.p50), ("p90", seen.p90), ("p99", seen.p99)):
        if ms > axis.high:
            break
        svg.line(axis(ms), base, axis(ms), base - height + 22, "mark", f"{name}: {ms:.2f} ms")
        label = f"{name} {number(round(ms, 1))}"
        half = len(label) * 3.4
        if axis(ms) - half > free_from:
            svg.text(axis(ms), base - height + 18, label, "middle", "tick")
            free_from = axis(ms) + half + 6


def model_style(index: int) -> str:
    """The class of a model, the same in every picture of the page."""
    return f"c{(index + _FIRST_MODEL) % PALETTE}"


def _parts(
    model: ModelProfile,
    chosen: NDArray[np.bool_],
    average: Callable[[NDArray[np.float64]], np.floating[Any]],
) -> dict[str, float]:
    """Stage to its average over the chosen frames, and what of a step is in no stage."""
    samples = model.samples
    parts = {
        name: float(average(np.nan_to_num(samples.stage_ms(name)[chosen])))
        for name in samples.stages
    }
    rest = samples.step_ms - samples.sum_ms(samples.stages)
    return parts | {OTHER: max(float(average(rest[chosen])), 0.0)}

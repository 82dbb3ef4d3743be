"""Pictures of what explains the time: operations, tokens, memory."""

import math
from collections.abc import Sequence

import numpy as np

from vpp_deploy.pages.svg import Axis, Svg, number, x_axis, y_axis
from vpp_deploy.profiling.latency_figures import WIDTH
from vpp_deploy.profiling.measure import ModelProfile, Timing
from vpp_deploy.profiling.ratios import Ratio

NUM_BLOCKS = 12
_GROUPS = (range(1, 3), range(3, 6), range(6, 9), range(9, 12))
"""Blocks that share a selection; block 0 runs every token (MODEL.md 2.2)."""

_MOST_POINTS = 600


def savings(ratios: Sequence[Ratio]) -> str:
    """Two bars a part, operations above latency, as shares of the first model's."""
    shown = [ratio for ratio in ratios if not math.isnan(ratio.operations + ratio.latency)]
    if not shown:
        return ""
    left, row = 130, 46
    highest = max(1.0, *(max(ratio.operations, ratio.latency) for ratio in shown))
    axis = Axis(0, highest * 1.02, left, WIDTH - 74)
    bottom = 8 + len(shown) * row
    svg = Svg(WIDTH, bottom + 42, "operations and latency as shares of the first model's")
    x_axis(svg, axis, bottom, 4, "share of the first model's")
    for i, ratio in enumerate(shown):
        y = 10 + i * row
        svg.text(left - 10, y + 22, ratio.part, "end", "strong")
        for j, (name, value) in enumerate(
            (("operations", ratio.operations), ("latency", ratio.latency))
        ):
            tip = f"{ratio.part}: {name} {value:.3f}"
            svg.rect(left, y + 18 * j, axis(value) - left, 16, ("c0", "c4")[j], tip)
            svg.text(WIDTH - 12, y + 18 * j + 12, f"{value:.3f}", "end", "value")
    svg.line(axis(1), 4, axis(1), bottom, "mark")
    return svg.render()


def tokens(model: ModelProfile, style: str) -> str:
    """Tokens that run in each block: the mean, and least to most where the number varies."""
    kept = _kept_by_block(model)
    width, left, top, bottom = 440, 58, 34, 190
    blocks = Axis(0, NUM_BLOCKS, left, width - 8)
    count = Axis(0, model.num_tokens, bottom, top)
    svg = Svg(width, bottom + 42, f"tokens that run in each block of {model.label}")
    y_axis(svg, count, left, width - 8, "tokens")
    for block, (mean, least, most) in enumerate(kept):
        x, x_end = blocks(block) + 2, blocks(block + 1) - 2
        share = mean / model.num_tokens
        tip = f"block {block}: {mean:.0f} of {model.num_tokens} tokens ({share:.0%})"
        svg.rect(x, count(mean), x_end - x, bottom - count(mean), style, tip)
        if least < most:
            middle = (x + x_end) / 2
            tip = f"block {block}: {least} to {most} tokens"
            svg.line(middle, count(least), middle, count(most), "mark", tip)
        svg.text((x + x_end) / 2, bottom + 16, str(block), "middle", "tick")
    mean_share = sum(mean for mean, _, _ in kept) / NUM_BLOCKS / model.num_tokens
    svg.text(left, bottom + 36, f"{mean_share:.1%} kept, mean of the blocks", style="label")
    svg.text(width - 8, bottom + 36, "block", "end", "label")
    return svg.render()


def memory(timing: Timing) -> str:
    """What the process held after each frame; nothing where the system does not tell."""
    held = timing.resident_bytes / 1e6
    if np.isnan(held).any():
        return ""
    peak = held.max() if timing.peak_bytes is None else timing.peak_bytes / 1e6
    left, top, bottom = 64, 34, 200
    frames = Axis(0, max(len(held) - 1, 1), left, WIDTH - 12)
    megabytes = Axis(0, peak * 1.08, bottom, top)
    svg = Svg(WIDTH, bottom + 42, "memory of the process after each frame")
    y_axis(svg, megabytes, left, WIDTH - 12, "MB held by the process, all models together")
    every = -(-len(held) // _MOST_POINTS)
    shown = sorted({*range(0, len(held), every), len(held) - 1})
    points = [(frames(i), megabytes(held[i])) for i in shown]
    svg.path([(left, bottom), *points, (points[-1][0], bottom)], "area", closed=True)
    svg.path(points, "curve", tip=f"{held[0]:.0f} MB at first, {held[-1]:.0f} MB at last")
    svg.line(left, megabytes(peak), WIDTH - 12, megabytes(peak), "dashed", f"peak {peak:.0f} MB")
    svg.text(WIDTH - 12, megabytes(peak) - 6, f"peak {number(round(peak))} MB", "end", "value")
    for tick in frames.ticks(10):
        if tick == int(tick):
            svg.text(frames(tick), bottom + 18, number(tick), "middle", "tick")
    svg.text(WIDTH - 12, bottom + 36, "frame", "end", "label")
    return svg.render()


def _kept_by_block(model: ModelProfile) -> list[tuple[float, int, int]]:
    """For each block the mean, least and most tokens; first frames are left out."""
    everything = (float(model.num_tokens), model.num_tokens, model.num_tokens)
    blocks = [everything] * NUM_BLOCKS
    names = model.samples.kept_names
    later = ~model.samples.first
    if len(names) == len(_GROUPS) and later.any():
        for name, group in zip(names, _GROUPS, strict=True):
            counts = model.samples.kept(name)[later]
            for block in group:
                blocks[block] = (float(counts.mean()), int(counts.min()), int(counts.max()))
    return blocks

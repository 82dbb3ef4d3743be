"""The picture: what the rule kept, frame by frame, and where the proposed budgets cut it."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.calibration.budgets import Proposal, share_kept
from vpp_deploy.calibration.rule import KeptTokens
from vpp_deploy.pages.document import render_document
from vpp_deploy.pages.svg import Axis, Svg, number, x_axis, y_axis

GROUPS = ("blocks 3-5", "blocks 6-8", "blocks 9-11")
_STYLES = ("c2", "c3", "c4")
_WIDTH, _LEFT, _TOP, _BOTTOM = 960, 64, 34, 260
_MOST_POINTS = 900


def render_page(
    name: str,
    videos: Sequence[tuple[str, Sequence[KeptTokens]]],
    counts_n3: NDArray[np.int64],
    proposal: Proposal,
    num_tokens: int,
) -> str:
    """One HTML document.

    Args:
        name: of the model.
        videos: name and frames of each.
        counts_n3: of `telling`, of all videos.
        proposal: the budgets to draw.
        num_tokens: N.
    """
    shown = "/".join(str(count) for count in _counts(proposal))
    intro = (
        f"{sum(len(frames) for _, frames in videos)} frames of "
        f"{', '.join(video for video, _ in videos)} under the published rule. Proposed: "
        f"{shown} of {num_tokens} tokens, {proposal.kept:.1%} averaged over the blocks; nothing "
        f"is cut in {proposal.coverage[3]:.1%} of the frames. Not counted: first frames, which run "
        "every token in blocks 1-2, and those that the rule keeps whole because the frame before "
        "kept nothing, which are not drawn either."
    )
    legend = "".join(
        f'<li><i class="{style}"></i>{group}</li>'
        for group, style in zip(GROUPS, _STYLES, strict=True)
    )
    parts = (
        f"<h1>What the rule keeps: {escape(name)}</h1><p>{escape(intro)}</p>",
        "<h2>Frame by frame</h2><p>Dashed: the proposed budgets. Above its line a frame loses "
        f'tokens.</p><ul class="legend">{legend}</ul>',
        _over_time(videos, proposal, num_tokens),
        "<h2>How much covers how much</h2><p>Budgets from small to large: the share of tokens "
        "that they run, and the share of frames of which they cut nothing.</p>",
        _coverage(counts_n3, proposal, num_tokens),
    )
    return render_document(f"Calibration of {name}", parts)


def _counts(proposal: Proposal) -> tuple[int, int, int, int]:
    b = proposal.budgets
    return b.blocks_1_2, b.blocks_3_5, b.blocks_6_8, b.blocks_9_11


def _over_time(
    videos: Sequence[tuple[str, Sequence[KeptTokens]]], proposal: Proposal, num_tokens: int
) -> str:
    all_frames = [frame for _, frames in videos for frame in frames]
    counts_n3 = np.array([(0, 0, 0) if frame.overruled else frame.later for frame in all_frames])
    along = Axis(0, max(len(counts_n3) - 1, 1), _LEFT, _WIDTH - 12)
    tokens = Axis(0, num_tokens, _BOTTOM, _TOP)
    svg = Svg(_WIDTH, _BOTTOM + 42, "tokens that the rule keeps, frame by frame")
    y_axis(svg, tokens, _LEFT, _WIDTH - 12, "tokens")
    every = -(-len(counts_n3) // _MOST_POINTS)
    for counts_n, style, budget, group in zip(
        counts_n3.T, _STYLES, _counts(proposal)[1:], GROUPS, strict=True
    ):
        for i in range(0, len(counts_n), every):
            # A bucket's most, since it is the most that a budget cuts.
            count = int(counts_n[i : i + every].max())
            tip = f"frame {i}, {group}: {count} tokens"
            if not all(frame.overruled for frame in all_frames[i : i + every]):
                svg.rect(along(i) - 1.5, tokens(count) - 1.5, 3, 3, style, tip)
        tip = f"{group}: budget {budget}"
        svg.line(_LEFT, tokens(budget), _WIDTH - 12, tokens(budget), "dashed", tip)
    end = 0
    for name, frames in videos[:-1]:
        end += len(frames)
        svg.line(along(end), _TOP, along(end), _BOTTOM, "mark", f"end of {name}")
    for tick in along.ticks(10):
        if tick == int(tick):
            svg.text(along(tick), _BOTTOM + 18, number(tick), "middle", "tick")
    svg.text(_WIDTH - 12, _BOTTOM + 36, "frame", "end", "label")
    return svg.render()


def _coverage(counts_n3: NDArray[np.int64], proposal: Proposal, num_tokens: int) -> str:
    levels = np.sort(counts_n3, axis=0)
    map_tokens = proposal.budgets.blocks_1_2
    chosen = levels[:: -(-len(levels) // _MOST_POINTS)]
    points = [
        (
            share_kept((map_tokens, *level), num_tokens),
            float((counts_n3 <= level).all(axis=1).mean()),
        )
        for level in (*chosen, levels[-1])
    ]
    kept = Axis(0, 1, _LEFT, _WIDTH - 12)
    covered = Axis(0, 1, _BOTTOM, _TOP)
    svg = Svg(_WIDTH, _BOTTOM + 42, "share of frames covered over share of tokens kept")
    y_axis(svg, covered, _LEFT, _WIDTH - 12, "frames of which nothing is cut")
    x_axis(svg, kept, _BOTTOM, _TOP, "tokens kept, averaged over the blocks")
    svg.path([(kept(x), covered(y)) for x, y in points], "curve")
    here = (kept(proposal.kept), covered(proposal.coverage[3]))
    svg.rect(here[0] - 5, here[1] - 5, 10, 10, "c6", "proposed")
    return svg.render()

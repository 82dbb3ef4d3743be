"""How many tokens the published threshold rule keeps of real frames (MODEL.md 2.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.token_maps import selections
from vpp_deploy.video.resize import plan_for_input, resize_frame
from vpp_deploy.video.scene_cuts import SceneCuts
from vpp_deploy.video.source import Frame

_HEAD = "head"


@dataclass(frozen=True)
class KeptTokens:
    """What the rule kept of one frame.

    Attributes:
        blocks_1_2: Map-SM's share of the tokens, or every token where there is no frame before.
        later: tokens kept at blocks 3, 6 and 9.
        first: it had no frame before: a video's first, or a scene cut.
        overruled: the frame before had kept nothing, so the rule's arithmetic keeps every token
            in every block (MODEL.md 2.3, point 6). It tells nothing of the frame.
    """

    blocks_1_2: int
    later: tuple[int, int, int]
    first: bool
    overruled: bool


def count_kept(runner: PipelineRunner, frames: Iterable[Frame]) -> Iterator[KeptTokens]:
    """Runs one video through the backbone under the published rule; the head is left out.

    Args:
        runner: of one stream, under that rule.
        frames: from the start of the video. State is dropped at scene cuts, as `run` does it.
    """
    spec = runner.spec
    _, height, width, _ = spec.tensor("frames").shape
    start = spec.cold_start
    assert start is not None, "a dense model selects nothing"
    names = [name for _, name in selections(spec)]
    pixels = np.zeros((1, height, width, 3), np.uint8)
    runner.upload("rank_noise", np.zeros(spec.tensor("rank_noise").shape, np.float32))
    cuts = SceneCuts()
    before: int | None = None
    for frame in frames:
        plan = plan_for_input(frame.rgb.shape[0], frame.rgb.shape[1], (height, width))
        resize_frame(frame.rgb, plan, out=pixels[0])
        rows, columns = plan.resized
        first = cuts.is_cut(pixels[0, :rows, :columns]) or before is None
        runner.upload("frames", pixels)
        runner.upload("frame_sizes", np.array([plan.resized], np.int64))
        for stage in spec.stages:
            if stage.name != _HEAD and not (first and stage.name in start.skip):
                runner.run(stage.name, cold=first)
        runner.advance()
        counts = [_length(runner.download(name)) for name in names]
        widest = start.num_tokens if first else counts[0]
        yield KeptTokens(
            widest, (counts[1], counts[2], counts[3]), first, not first and before == 0
        )
        before = counts[1]


def _length(positions_1K: NDArray[np.int64]) -> int:
    return int(positions_1K.shape[1])

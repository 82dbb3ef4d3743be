"""How many tokens the published threshold rule keeps of real frames (MODEL.md 2.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.runtime.clock import Clock
from vpp_deploy.runtime.inputs import StepInputs
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.stages import run_stages
from vpp_deploy.runtime.stream import ResetPolicy, Stream
from vpp_deploy.runtime.token_maps import selections
from vpp_deploy.runtime.tracker import Tracker
from vpp_deploy.video.resize import plan_for_input
from vpp_deploy.video.source import Frame

_HEAD = "head"


@dataclass(frozen=True)
class KeptTokens:
    """What the rule kept of one frame.

    Attributes:
        blocks_1_2: Map-SM's share of the tokens, or every token where there is no frame before.
        later: tokens kept at blocks 3, 6 and 9.
        first: it ran without the state of a frame before: a video's first, or one after a reset.
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
        frames: from the start of the video. State is dropped where `run` drops it.
    """
    start = runner.spec.cold_start
    assert start is not None, "a dense model selects nothing"
    names = [name for _, name in selections(runner.spec)]
    inputs = StepInputs(runner, None)
    stream = Stream(Tracker(inputs.slots, inputs.query_width), ResetPolicy(scene_cuts=True))
    before = start.num_tokens
    for frame in frames:
        plan = plan_for_input(frame.rgb.shape[0], frame.rgb.shape[1], inputs.size)
        stream.meet(frame, plan, inputs.put(0, frame.rgb, plan))
        inputs.upload([stream], [0])
        first = stream.passed() is not None
        run_stages(runner, np.array([first]), [0], Clock(), without=[_HEAD])
        counts = [_length(runner.download(name)) for name in names]
        widest = start.num_tokens if first else counts[0]
        yield KeptTokens(
            widest, (counts[1], counts[2], counts[3]), first, not first and before == 0
        )
        before = counts[1]


def _length(positions_1K: NDArray[np.int64]) -> int:
    return int(positions_1K.shape[1])

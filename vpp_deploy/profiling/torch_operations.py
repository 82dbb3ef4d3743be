"""Multiply-accumulates of a checkpoint's stages, counted by PyTorch while they run."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from vpp_deploy.manifests import StageOperations
from vpp_deploy.profiling.feed import FrameFeed
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.specs import PipelineSpec

Shape = tuple[int, ...]


def count_in_torch(
    runner: TorchRunner, feed: FrameFeed, num_frames: int
) -> dict[str, StageOperations]:
    """Steps a first frame and `num_frames` more under PyTorch's own counter.

    Under the published rule the number of tokens varies: the mean over those frames is given. A
    video of one frame has nothing but first ones, and they stand for both.
    """
    counting = _CountingRunner(runner)
    session = VideoSession(counting)
    num_later = 0
    with contextlib.closing(feed.frames()) as frames:
        session.step_batch([next(frames).frame] * runner.batch)
        first = counting.take()
        for fed in itertools.islice(frames, num_frames):
            if fed.first:
                break
            session.step_batch([fed.frame] * runner.batch)
            num_later += 1
    later = counting.take() if num_later else first
    return {
        stage.name: _operations(first[stage.name], later[stage.name], max(num_later, 1))
        for stage in runner.spec.stages
    }


def _operations(first: Counter[str], later: Counter[str], frames: int) -> StageOperations:
    by_operator = {operator: macs // frames for operator, macs in later.items()}
    return StageOperations(sum(by_operator.values()), first.total(), by_operator)


class _CountingRunner:
    """A `PipelineRunner` that counts what its stages compute, by stage and operator."""

    def __init__(self, runner: PipelineRunner) -> None:
        # Deployment machines have no torch: a torch runner proves that it is here.
        import torch
        from torch.utils import flop_counter

        self.owner: object = None
        self._runner = runner
        self._counter = flop_counter.FlopCounterMode
        aten = torch.ops.aten

        def attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
            count: Callable[..., int] = flop_counter.sdpa_flop_count
            return count(query, key, value)

        # torch 2.13 counts attention on every device but the CPU. Remove when it does there.
        self._more = {aten._scaled_dot_product_flash_attention_for_cpu: attention}
        self._counts: dict[str, Counter[str]] = {}
        self.take()

    def take(self) -> dict[str, Counter[str]]:
        """Stage to what was counted since the last call, by operator."""
        counts = self._counts
        self._counts = {stage.name: Counter() for stage in self._runner.spec.stages}
        return counts

    @property
    def spec(self) -> PipelineSpec:
        return self._runner.spec

    @property
    def asynchronous(self) -> bool:
        return self._runner.asynchronous

    @property
    def batch(self) -> int:
        return self._runner.batch

    def upload(self, name: str, value: NDArray[Any]) -> None:
        self._runner.upload(name, value)

    def run(self, stage: str, *, cold: bool = False) -> None:
        with self._counter(display=False, custom_mapping=self._more) as counter:
            self._runner.run(stage, cold=cold)
        for operator, flops in counter.get_flop_counts().get("Global", {}).items():
            self._counts[stage][str(operator).removeprefix("aten.")] += flops // 2

    def download(self, name: str) -> NDArray[Any]:
        return self._runner.download(name)

    def advance(self) -> None:
        self._runner.advance()

"""Masks that the pipeline makes itself, at the frame's size, and what they need from the host.

The host ranks (query, class) pairs, as always; the masks of the queries among them come from the
device as bits, a few queries at a time (`vpp_deploy/partition/masks.py`).

Shapes: B streams, M masks of one call, h w size of the logits, Y X of the largest frame, G = X/8
bytes of a row, rounded up.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.detections import Detections, PackedMask, Size
from vpp_deploy.runtime.postprocess import Pairs, score_masks
from vpp_deploy.runtime.resampling import resize_matrix
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.video.resize import ResizePlan

STAGE = "masks"


def makes_masks(runner: PipelineRunner) -> bool:
    """Whether the runner's pipeline has the stage."""
    return any(stage.name == STAGE for stage in runner.spec.stages)


def upload_weights(
    runner: PipelineRunner, plans: Sequence[ResizePlan | None], input_size: Size
) -> None:
    """Tells the stage the sizes of the streams' frames.

    Args:
        runner: of the pipeline.
        plans: of each stream; None for one that has no frames, whose masks nobody reads.
        input_size: (H, W) of the padded input.
    """
    batch, _, height, width = runner.spec.tensor("mask_logits").shape
    sizes = [plan.frame_size for plan in plans if plan is not None]
    rows = np.zeros((batch, max(size[0] for size in sizes), height), np.float32)
    num_bytes = -(-max(size[1] for size in sizes) // 8)
    columns = np.zeros((batch, width, num_bytes * 8), np.float32)
    for s, plan in enumerate(plans):
        if plan is not None:
            vertical, horizontal = (
                resize_matrix(low, padded, resized, frame)
                for low, padded, resized, frame in zip(
                    (height, width), input_size, plan.resized, plan.frame_size, strict=True
                )
            )
            rows[s, : len(vertical)] = vertical
            columns[s, :, : len(horizontal)] = horizontal.T
    runner.upload("row_weights", rows)
    runner.upload("column_weights", columns.reshape(batch, width, num_bytes, 8))


class MadeMasks:
    """Collects the masks of one frame of every stream.

    Attributes:
        calls: how often the stage ran, the frame's own run included.
    """

    def __init__(self, runner: PipelineRunner, pairs: Sequence[Pairs | None]) -> None:
        """Reads what the frame's run of the stage made, and has it make the others.

        Args:
            runner: after a frame.
            pairs: of each stream; None for one that has no frame.

        Raises:
            BackendError: the runner fails.
            FloatingPointError: the logits of a mask are not finite.
        """
        self.calls = 1
        self._masks: list[dict[int, tuple[PackedMask, float]]] = [{} for _ in pairs]
        wanted = [set() if p is None else set(p.query_ids.tolist()) for p in pairs]
        self._collect(runner, wanted)
        made = runner.spec.tensor("mask_queries").shape[1]
        num_queries = runner.spec.tensor("class_logits").shape[1]
        try:
            while any(want - have.keys() for want, have in zip(wanted, self._masks, strict=True)):
                # The ranking is of all queries, so that every one has its turn.
                if self.calls * made >= num_queries:
                    raise BackendError(
                        "the stage masks ranks no query where one is expected; verify the model"
                    )
                runner.upload("mask_offset", np.array([self.calls * made]))
                runner.run(STAGE)
                self.calls += 1
                self._collect(runner, wanted)
        finally:
            if self.calls > 1:
                runner.upload("mask_offset", np.zeros(1, np.int64))

    def detections(self, stream: int, pairs: Pairs, frame_size: Size) -> Detections:
        """Instances of a stream's frame, as `postprocess.detect` returns them."""
        rows, row_of_pair = np.unique(pairs.query_ids, return_inverse=True)
        made = [self._masks[stream][row] for row in rows.tolist()]
        scores = np.array([score for _, score in made], np.float32)
        return score_masks(pairs, [mask for mask, _ in made], scores, row_of_pair, frame_size)

    def _collect(self, runner: PipelineRunner, wanted: Sequence[set[int]]) -> None:
        """The masks of wanted queries among those just made; copies, for they are made again."""
        queries: NDArray[np.int64] = runner.download("mask_queries")
        bits = runner.download("mask_bits")
        sums, checks = runner.download("mask_sums"), runner.download("mask_checks")
        for s, want in enumerate(wanted):
            for m, query in enumerate(queries[s].tolist()):
                if query not in want or query in self._masks[s]:
                    continue
                if not np.isfinite(checks[s, m]):
                    raise FloatingPointError("mask logits hold NaN or infinity")
                mask = PackedMask.of_bits(bits[s, m], 0, 0)
                mask = dataclasses.replace(mask, bits=mask.bits.copy())
                self._masks[s][query] = mask, float(sums[s, m]) / (mask.area + 1e-6)

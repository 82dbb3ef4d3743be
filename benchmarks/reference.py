"""The reference that this project's speed is a ratio to: the public research code's way to run VPP.

Eager PyTorch in float32 on the project's own model and weights, with everything else as MODEL.md 1
to 5 and 7 say the public code does it: the published threshold rule, track queries without slots,
ten full predictions of classes and masks in the decoder, masks of all queries at the frame's size,
and a tracker that keeps them. Its results are the same as the project's own; tests compare them,
also with recordings of the real reference implementation.

Where MODEL.md does not say how the public code does something, the cheaper way is taken here, so
that no ratio is flattered: Map-SM compares with the tokens kept alone, and what the backbone needs
of the input size alone is computed once.
"""

import functools
from pathlib import Path
from typing import cast

import torch

from benchmarks.reference_network import (
    ExplicitAttention,
    Prediction,
    ReferenceHead,
    Stopwatch,
    sample_stacked,
)
from benchmarks.reference_tracking import ReferenceTracker, find_instances
from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.checkpoints.reader import read_checkpoint
from vpp_deploy.models.head import VppHead
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vit import Attention
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.recipes import ModelSettings
from vpp_deploy.results import FrameResult
from vpp_deploy.video.resize import plan_for_input, resize_frame
from vpp_deploy.video.source import Frame


def open_reference(
    checkpoint: Path, recipe: Path | None, input_size: tuple[int, int]
) -> "ReferenceSession":
    """The reference of a checkpoint, at the first frame of a video.

    Args:
        checkpoint: .pth or .safetensors.
        recipe: what the checkpoint does not say of itself; budgets in it are not used.
        input_size: (H, W) of the padded input, multiples of 32.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit.
        RecipeError: a setting is missing or contradicts the checkpoint.
    """
    settings = ModelSettings() if recipe is None else load_recipe(recipe).model
    return ReferenceSession(
        build_model(read_checkpoint(checkpoint), settings, sample_stacked), input_size
    )


class ReferenceSession:
    """One video through the reference.

    Attributes:
        kept_share: share of the patches that ran in the last frame, averaged over the blocks.
        num_queries: static and track queries of the last frame.
    """

    def __init__(self, model: VppModel, input_size: tuple[int, int]) -> None:
        """Takes `model` over: its head and its blocks' attention are replaced.

        Args:
            model: in evaluation mode, with `sample_stacked` as its sampler.
            input_size: (H, W) of the padded input, multiples of 32.
        """
        config = model.config
        self._clock = Stopwatch()
        head = model.panoptic_head
        assert isinstance(head, VppHead)
        model.panoptic_head = ReferenceHead(head, self._clock)  # type: ignore[assignment]
        if not config.pruned:
            # The pruned models' blocks are PyTorch's encoder layers, which use a fused kernel.
            for block in model.backbone.blocks:
                assert isinstance(block.attn, Attention)
                block.attn = ExplicitAttention(block.attn)
        constants = functools.cache(model.backbone.constants)
        model.backbone.constants = constants  # type: ignore[method-assign]
        self._model = model
        self._input_size = input_size
        self._num_static = config.num_queries
        self._tracker = ReferenceTracker(config.head_width)
        self._memory: TokenMemory | None = None
        self._frames_seen = 0
        self.kept_share = 1.0
        self.num_queries = config.num_queries

    @torch.inference_mode()
    def step(self, frame: Frame) -> FrameResult:
        """The next frame. The backbone's time includes the normalisation."""
        plan = plan_for_input(frame.rgb.shape[0], frame.rgb.shape[1], self._input_size)
        self._clock.restart()
        image = torch.from_numpy(resize_frame(frame.rgb, plan))
        self._clock.lap("resize")
        tracks_TD = self._tracker.track_queries()
        out = self._model(
            image[None],
            torch.tensor([plan.resized]),
            (self._memory,),
            tracks_TD[None],
            torch.ones(1, len(tracks_TD), dtype=torch.bool),
        )
        prediction = cast(Prediction, out.head)
        found = find_instances(
            prediction.class_logits_QK,
            prediction.mask_logits_QHW,
            self._num_static,
            plan.padded,
            plan.resized,
            plan.frame_size,
        )
        self._clock.lap("postprocess")
        tracks = self._tracker.update(self._frames_seen, found, prediction.queries_QD)
        self._clock.lap("tracking")

        first = self._frames_seen == 0
        self._frames_seen += 1
        (self._memory,) = out.memories
        self.num_queries = len(prediction.queries_QD)
        self.kept_share = _kept_share([len(p[0]) for p in out.kept[0]], plan.padded)
        return FrameResult(
            frame.index,
            frame.time_s,
            tracks,
            self._clock.stage_ms,
            "start" if first else None,
            (),
            tracks.ids,
        )


def _kept_share(counts: list[int], padded: tuple[int, int]) -> float:
    if not counts:
        return 1.0
    num_tokens = (padded[0] // 16) * (padded[1] // 16)
    blocks_1_2, *later = counts
    return (num_tokens + 2 * blocks_1_2 + 3 * sum(later)) / (12 * num_tokens)

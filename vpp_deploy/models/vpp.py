"""The whole model, frame by frame, with the temporal state going in and coming out.

MODEL.md 1.3 to 3 in one place, and what the recordings are compared with. Streams
are stepped together; each keeps its own memory, so one may be at its first frame while the others
are not.

Shapes: B streams, H W padded input, N tokens, T track queries, D head width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vpp_deploy.models.backbone import Selection, TrunkOutput, VppBackbone
from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.deformable import Sampler, sample_grid
from vpp_deploy.models.head import HeadOutput, VppHead
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.tokens import all_positions

MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)

PUBLISHED = Selection()
"""The published threshold rule: the counts after blocks 3, 6 and 9 vary from frame to frame."""


class FrameOutput(NamedTuple):
    """One step of B streams.

    Attributes:
        features: f1 to f4, each (B, C, height, width), at strides 4, 8, 16, 32.
        head: what the head predicts.
        memories: each stream's temporal state for its next frame (None: dense model).
        kept: for each stream, the positions that ran in blocks 1-2, 3-5, 6-8 and 9-11 (empty:
            dense model).
    """

    features: tuple[Tensor, ...]
    head: HeadOutput
    memories: tuple[TokenMemory | None, ...]
    kept: tuple[tuple[Tensor, ...], ...]


def normalise(frames_BHW3: Tensor, sizes_B2: Tensor) -> Tensor:
    """Frames to network input (MODEL.md 1.3, 1.4).

    Args:
        frames_BHW3: uint8 RGB, resized, in the top left corner; what lies outside is ignored.
        sizes_B2: int64 (height, width) of the resized frame inside the padded one.

    Returns:
        (B, 3, H, W) float32, exactly 0 outside the resized frame.
    """
    device = frames_BHW3.device
    mean_311 = torch.tensor(MEAN_RGB, device=device).reshape(3, 1, 1)
    std_311 = torch.tensor(STD_RGB, device=device).reshape(3, 1, 1)
    # Planes first: arithmetic over three interleaved channels is slow wherever it is vectorised.
    # Before that float32: TensorRT moves no uint8.
    image_B3HW = (frames_BHW3.to(torch.float32).permute(0, 3, 1, 2) - mean_311) / std_311
    rows_H1 = torch.arange(frames_BHW3.shape[1], device=device)[:, None]
    columns_1W = torch.arange(frames_BHW3.shape[2], device=device)[None]
    heights, widths = sizes_B2[:, 0, None, None], sizes_B2[:, 1, None, None]
    inside_BHW = (rows_H1 < heights) & (columns_1W < widths)
    return torch.where(inside_BHW[:, None], image_B3HW, 0.0)


class VppModel(nn.Module):
    """Video Patch Pruning, or its dense baseline (`config.pruned` False).

    The state_dict's keys are the published ones without the leading `detector.`, with the
    blocks in the dense models' spelling.
    """

    def __init__(self, config: ModelConfig, sampler: Sampler = sample_grid) -> None:
        super().__init__()
        self.config = config
        self.backbone = VppBackbone(config, sampler)
        self.panoptic_head = VppHead(config, sampler)

    def forward(
        self,
        frames_BHW3: Tensor,
        sizes_B2: Tensor,
        memories: Sequence[TokenMemory | None],
        track_queries_BTD: Tensor,
        track_valid_BT: Tensor,
        selection: Selection = PUBLISHED,
        attention_masks: Sequence[Tensor] | None = None,
    ) -> FrameOutput:
        """One frame of each stream.

        Args:
            frames_BHW3: uint8 RGB, as `normalise` takes them; H and W multiples of 32.
            sizes_B2: int64, as `normalise` takes them.
            memories: each stream's temporal state; None at its first frame and after a reset.
            track_queries_BTD: float32, queries carried by the tracker.
            track_valid_BT: bool, False for a slot that holds no track.
            selection: the published threshold rule, or fixed budgets.
            attention_masks: forces the decoder's masks, see `VppHead.forward`.
        """
        backbone = self.backbone
        image = normalise(frames_BHW3, sizes_B2)
        input_size = (frames_BHW3.shape[1], frames_BHW3.shape[2])
        constants, grid = backbone.constants(input_size), backbone.grid(input_size)
        stem = backbone.stem(image, constants)
        trunks: list[TrunkOutput] = []
        kept: list[tuple[Tensor, ...]] = []
        for b, memory in enumerate(memories):
            tokens_1NC, pyramid_1MC = stem.tokens_BNC[b : b + 1], stem.pyramid_BMC[b : b + 1]
            keep_1K, rule = None, selection
            if self.config.pruned and memory is None:
                keep_1K = all_positions(1, tokens_1NC.shape[1], image.device)
            elif memory is not None:
                noise_1N = torch.zeros(tokens_1NC.shape[:2], device=image.device)
                keep_1K = backbone.select(tokens_1NC, memory, constants, grid, noise_1N)
                if memory.is_empty:
                    rule = Selection(keep_all=True)
            trunks.append(backbone.trunk(tokens_1NC, pyramid_1MC, keep_1K, rule, constants, grid))
            kept.append(() if keep_1K is None else (keep_1K, *trunks[-1].kept))
        features = backbone.features(
            torch.cat([trunk.tokens_BNC for trunk in trunks]),
            torch.cat([trunk.pyramid_BMC for trunk in trunks]),
            stem.stride4_BSHW,
            grid,
        )
        head = self.panoptic_head(features, track_queries_BTD, track_valid_BT, attention_masks)
        return FrameOutput(features, head, tuple(t.memory for t in trunks), tuple(kept))

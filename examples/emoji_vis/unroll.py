"""A clip through the model, frame by frame, with its losses.

Shapes: B clips, F frames, Q queries, T track slots, D head width, N patch tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.emoji_vis.clips import Batch, Targets
from examples.emoji_vis.gates import GatedOutput, Shares, gated_trunk, selector_loss
from examples.emoji_vis.losses import FrameTargets, Parts, Prediction, assign, frame_loss
from examples.emoji_vis.network import INPUT_SIZE
from examples.emoji_vis.tracks import TrackQueries, next_tracks, no_tracks
from vpp_deploy.models.backbone import GridConstants, Selection, StemOutput, VppBackbone
from vpp_deploy.models.head import VppHead, is_background
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vpp import VppModel, normalise

GUIDANCE_WEIGHT, RATIO_WEIGHT = 0.5, 5.0


@dataclass(frozen=True)
class Pruning:
    """How tokens are selected in training.

    Attributes:
        kept: what each selector keeps in these clips.
        wanted: of all tokens, those that should score 0 or more.
        noise: scale of the noise on the scores.
    """

    kept: Shares
    wanted: Shares
    noise: float


@dataclass(frozen=True)
class Step:
    """What one clip gives.

    Attributes:
        losses: name to weighted part; their sum is what is minimised.
        frames: of each frame, what the last layer found, for looking at and measuring.
    """

    losses: dict[str, Tensor]
    frames: tuple["Found", ...]


@dataclass(frozen=True)
class Found:
    """The last layer's predictions for one frame.

    Attributes:
        prediction: of all clips.
        targets: of each clip.
        queries: of each clip, the query of each of the frame's objects.
        tracks: that the frame was given.
        kept: of each selector, (B, N) bool; empty where nothing is pruned.
    """

    prediction: Prediction
    targets: tuple[FrameTargets, ...]
    queries: tuple[Tensor, ...]
    tracks: TrackQueries
    kept: tuple[Tensor, ...]


def run_clips(
    model: VppModel, batch: Batch, pruning: Pruning | None, rng: np.random.Generator | None
) -> Step:
    """Runs a batch of clips.

    Args:
        model: pruned; its selectors are left out where `pruning` is None.
        batch: the clips.
        pruning: None keeps every token.
        rng: for mishaps of the tracks; None for none.
    """
    clips, length = batch.frames_BFHW3.shape[:2]
    seen = _see(model, batch, pruning)
    tracks = no_tracks(clips, model.config.head_width, seen.maps.device)
    sums: list[Parts] = []
    found: list[Found] = []
    for f in range(length):
        targets = tuple(_frame_targets(t, f) for t in batch.targets)
        predictions, queries_BQD = _decode(
            model.panoptic_head,
            seen.maps[f::length],
            [level[f::length] for level in seen.memory],
            tracks,
        )
        static = model.config.num_queries
        num_objects = float(max(1, sum(len(t.objects) for t in targets)))
        valid_BQ = F.pad(tracks.valid_BT, (static, 0), value=True)
        for prediction in predictions:
            assigned = tuple(
                assign(prediction, b, targets[b], static, tracks.objects[b]) for b in range(clips)
            )
            sums.append(frame_loss(prediction, targets, assigned, valid_BQ, num_objects))
        found.append(Found(predictions[-1], targets, assigned, tracks, seen.kept[f]))
        followed = [
            dict(zip(t.objects.tolist(), q.tolist(), strict=True))
            for t, q in zip(targets, assigned, strict=True)
        ]
        tracks = next_tracks(tracks, queries_BQD, followed, rng)
    losses = {
        name: torch.stack([getattr(parts, name) for parts in sums]).mean() for name in Parts._fields
    }
    return Step(losses | seen.losses, tuple(found))


class _Seen(NamedTuple):
    """All frames, in the order of the clips, before the transformer decoder.

    Attributes:
        maps: mask features, (B*F, D, h, w).
        memory: at 1/32, 1/16 and 1/8.
        losses: what selecting cost.
        kept: of each frame what `Found` shows.
    """

    maps: Tensor
    memory: Sequence[Tensor]
    losses: dict[str, Tensor]
    kept: list[tuple[Tensor, ...]]


def _see(model: VppModel, batch: Batch, pruning: Pruning | None) -> _Seen:
    clips, length = batch.frames_BFHW3.shape[:2]
    backbone = model.backbone
    image = normalise(batch.frames_BFHW3.flatten(0, 1), batch.sizes_2.expand(clips * length, 2))
    constants, grid = backbone.constants(INPUT_SIZE), backbone.grid(INPUT_SIZE)
    stem = backbone.stem(image, constants)
    losses: dict[str, Tensor] = {}
    kept: list[tuple[Tensor, ...]] = [()] * length
    if pruning is None:
        trunk = backbone.trunk(
            stem.tokens_BNC, stem.pyramid_BMC, None, Selection(), constants, grid
        )
        tokens, pyramid = trunk.tokens_BNC, trunk.pyramid_BMC
    else:
        outputs = _prune(backbone, stem, (clips, length), pruning, constants, grid)
        taught = [
            selector_loss(output, _foreground(batch, f), pruning.wanted)
            for f, output in enumerate(outputs)
        ]
        losses["guidance"] = GUIDANCE_WEIGHT * torch.stack([g for g, _ in taught]).mean()
        losses["ratio"] = RATIO_WEIGHT * torch.stack([r for _, r in taught]).mean()
        kept = [output.kept for output in outputs]
        tokens = torch.stack([output.tokens_BNC for output in outputs], 1).flatten(0, 1)
        pyramid = torch.stack([output.pyramid_BMC for output in outputs], 1).flatten(0, 1)
    features = backbone.features(tokens, pyramid, stem.stride4_BSHW, grid)
    maps, memory = model.panoptic_head.pixel_decoder(*features)
    return _Seen(maps, memory, losses, kept)


def _prune(
    backbone: VppBackbone,
    stem: StemOutput,
    shape: tuple[int, int],
    pruning: Pruning,
    constants: GridConstants,
    grid: tuple[int, int],
) -> list[GatedOutput]:
    """The trunk, frame after frame of clips of `shape` (B, F)."""
    tokens = stem.tokens_BNC.reshape(*shape, *stem.tokens_BNC.shape[1:])
    pyramids = stem.pyramid_BMC.reshape(*shape, *stem.pyramid_BMC.shape[1:])
    memory: TokenMemory | None = None
    outputs: list[GatedOutput] = []
    for f in range(shape[1]):
        outputs.append(
            gated_trunk(
                backbone,
                tokens[:, f],
                pyramids[:, f],
                memory,
                pruning.kept,
                pruning.noise,
                constants,
                grid,
            )
        )
        memory = outputs[-1].memory
    return outputs


def _decode(
    head: VppHead, maps_BDhw: Tensor, memory: Sequence[Tensor], tracks: TrackQueries
) -> tuple[list[Prediction], Tensor]:
    """The predictions before each layer and after the last, and the queries to carry on."""
    predictions: list[Prediction] = []

    def predict(query_BQD: Tensor) -> Tensor:
        normed = head.transformer_decoder.post_norm(query_BQD)
        embeds = head.mask_embed(normed)
        logits: Tensor = (embeds @ maps_BDhw.flatten(2)).reshape(
            *embeds.shape[:2], *maps_BDhw.shape[2:]
        )
        predictions.append(Prediction(head.cls_embed(normed), logits))
        return logits

    def blocked(layer: int, query_BQD: Tensor, size: tuple[int, int]) -> Tensor:
        logits = predict(query_BQD).detach()
        small = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return is_background(small.flatten(2))

    queries_BQD, _ = head.decode(memory, tracks.queries_BTD, tracks.valid_BT, blocked)
    predict(queries_BQD)
    return predictions, queries_BQD


def _frame_targets(clip: Targets, f: int) -> FrameTargets:
    objects = torch.nonzero(clip.present_Fn[f]).flatten()
    return FrameTargets(objects, clip.labels_n[objects], clip.masks_Fnhw[f, objects])


def _foreground(batch: Batch, f: int) -> Tensor:
    """(B, N) bool: patches of frame `f` where an object shows."""
    covered = torch.stack([t.masks_Fnhw[f].sum(0) for t in batch.targets])
    return F.max_pool2d(covered[:, None], 4).flatten(1) > 0.3

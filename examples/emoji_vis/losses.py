"""Mask2Former's losses, with queries that carry an identity (TrackFormer's way).

Shapes: B clips, Q queries, K classes and background, n objects of a clip, h w a quarter of the
input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
_BACKGROUND_WEIGHT = 0.35  # of 20 queries four find an object, of the published 100 seven


class Prediction(NamedTuple):
    """What one decoder layer says.

    Attributes:
        class_logits_BQK: the last class is the background.
        mask_logits_BQhw: at a quarter of the input.
    """

    class_logits_BQK: Tensor
    mask_logits_BQhw: Tensor


@dataclass(frozen=True)
class FrameTargets:
    """The objects in one frame of one clip.

    Attributes:
        objects: (m,) int64, indices into the clip's objects.
        labels: (m,) int64.
        masks: (m, h, w) float32.
    """

    objects: Tensor
    labels: Tensor
    masks: Tensor


class Parts(NamedTuple):
    """The weighted parts of the loss."""

    classes: Tensor
    masks: Tensor
    dice: Tensor


def assign(
    prediction: Prediction,
    stream: int,
    targets: FrameTargets,
    num_static: int,
    track_objects: Sequence[int],
) -> Tensor:
    """For each object of the frame the query that has to find it, (m,) int64.

    A track's object is its own; the others go to the static queries, at the least cost.

    Args:
        prediction: of all clips.
        stream: which clip.
        targets: of that clip's frame.
        num_static: so many queries come first.
        track_objects: of each track query the object that it follows, -1 for none.
    """
    queries = torch.full((len(targets.objects),), -1)
    objects = targets.objects.tolist()
    for slot, followed in enumerate(track_objects):
        if followed >= 0 and followed in objects:
            queries[objects.index(followed)] = num_static + slot
    free = torch.nonzero(queries < 0).flatten()
    if len(free):
        with torch.no_grad():
            cost = _costs(
                prediction.class_logits_BQK[stream, :num_static],
                prediction.mask_logits_BQhw[stream, :num_static],
                targets.labels[free],
                targets.masks[free],
            )
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        queries[free[torch.as_tensor(columns)]] = torch.as_tensor(rows)
    return queries


def _costs(
    class_logits_QK: Tensor, mask_logits_Qhw: Tensor, labels_m: Tensor, masks_mhw: Tensor
) -> Tensor:
    """(Q, m)."""
    logits, targets = mask_logits_Qhw.flatten(1), masks_mhw.flatten(1)
    classes = -class_logits_QK.softmax(1)[:, labels_m]
    positive, negative = F.softplus(-logits), F.softplus(logits)
    entropy = (positive @ targets.T + negative @ (1 - targets).T) / logits.shape[1]
    shares = logits.sigmoid()
    overlap = 2 * shares @ targets.T
    dice = 1 - (overlap + 1) / (shares.sum(1)[:, None] + targets.sum(1)[None] + 1)
    return CLASS_WEIGHT * classes + MASK_WEIGHT * entropy + DICE_WEIGHT * dice


def frame_loss(
    prediction: Prediction,
    targets: Sequence[FrameTargets],
    queries: Sequence[Tensor],
    valid_BQ: Tensor,
    num_objects: float,
) -> Parts:
    """The loss of one layer's predictions for one frame of each clip.

    Args:
        prediction: of the layer.
        targets: of each clip.
        queries: of each clip, the query of each object, as `assign` gives it.
        valid_BQ: bool, False for empty track slots.
        num_objects: what the masks' losses are divided by.
    """
    class_logits = prediction.class_logits_BQK
    num_classes = class_logits.shape[2]
    wanted_BQ = torch.full(class_logits.shape[:2], num_classes - 1, device=class_logits.device)
    for b, (target, query) in enumerate(zip(targets, queries, strict=True)):
        wanted_BQ[b, query] = target.labels
    weights_K = class_logits.new_ones(num_classes)
    weights_K[-1] = _BACKGROUND_WEIGHT
    classes = F.cross_entropy(class_logits[valid_BQ], wanted_BQ[valid_BQ], weights_K)
    logits = torch.cat([prediction.mask_logits_BQhw[b, q] for b, q in enumerate(queries)])
    wanted = torch.cat([target.masks for target in targets])
    logits, wanted = logits.flatten(1), wanted.flatten(1)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()
    shares = logits.sigmoid()
    dice = 1 - (2 * (shares * wanted).sum(1) + 1) / (shares.sum(1) + wanted.sum(1) + 1)
    return Parts(
        CLASS_WEIGHT * classes,
        MASK_WEIGHT * entropy / num_objects,
        DICE_WEIGHT * dice.sum() / num_objects,
    )

"""How well a model does on clips that it is not trained on, in numbers that people can read."""

from collections.abc import Iterable

import torch
from torch import Tensor

from examples.emoji_vis.clips import Batch
from examples.emoji_vis.unroll import Found, Pruning, run_clips
from vpp_deploy.models.vpp import VppModel

_FOUND_IOU = 0.5
_SCORE = 0.3
"""Of the class alone: what the runtime takes for an object."""


@torch.no_grad()
def measure(model: VppModel, batches: Iterable[Batch], pruning: Pruning | None) -> dict[str, float]:
    """Mean values over all frames and objects.

    `loss`; `iou` of the masks of the queries that are assigned to objects, `class` how many of
    them name it right; `found`: both right, and the score high enough; `tracked`: the same of
    objects that have a track; `false`: confident queries a frame that belong to no object;
    `kept`: share of the patches, over the twelve blocks.
    """
    was_training = model.training
    model.eval()
    losses, kept = [], []
    objects: list[tuple[float, bool, bool, bool]] = []
    num_false, num_frames = 0, 0
    for batch in batches:
        step = run_clips(model, batch, pruning, None)
        losses.append(float(sum(step.losses.values())))
        for frame in step.frames:
            for b in range(len(frame.targets)):
                rows, wrong = _judge(frame, b)
                objects += rows
                num_false += wrong
                num_frames += 1
            kept.append(_share(frame.kept))
    model.train(was_training)
    iou, named, found, tracked = zip(*objects, strict=True) if objects else ((), (), (), ())
    followed = [f for f, t in zip(found, tracked, strict=True) if t]
    return {
        "loss": _mean(losses),
        "iou": _mean(iou),
        "class": _mean(named),
        "found": _mean(found),
        "tracked": _mean(followed),
        "false": num_false / max(1, num_frames),
        "kept": _mean(kept),
    }


def _judge(frame: Found, b: int) -> tuple[list[tuple[float, bool, bool, bool]], int]:
    targets, queries = frame.targets[b], frame.queries[b]
    scores_QK = frame.prediction.class_logits_BQK[b].softmax(1)[:, :-1]
    num_static = len(scores_QK) - frame.tracks.valid_BT.shape[1]
    scores_QK[num_static:] *= frame.tracks.valid_BT[b, :, None]
    rows = []
    for label, mask, query in zip(targets.labels, targets.masks, queries.tolist(), strict=True):
        guess = frame.prediction.mask_logits_BQhw[b, query] > 0
        whole = mask >= 0.5
        iou = float((guess & whole).sum() / (guess | whole).sum().clamp(min=1))
        named = bool(scores_QK[query].argmax() == label)
        found = named and iou >= _FOUND_IOU and bool(scores_QK[query].max() > _SCORE)
        rows.append((iou, named, found, query >= num_static))
    confident = set(torch.nonzero(scores_QK.amax(1) > _SCORE).flatten().tolist())
    return rows, len(confident - set(queries.tolist()))


def _share(kept: tuple[Tensor, ...]) -> float:
    if not kept:
        return 1.0
    blocks_1_2, blocks_3_5, blocks_6_8, blocks_9_11 = (float(k.float().mean()) for k in kept)
    return (1 + 2 * blocks_1_2 + 3 * (blocks_3_5 + blocks_6_8 + blocks_9_11)) / 12


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / max(1, len(values))

"""From the head's last predictions to scored masks at the frame's size (MODEL.md 4).

Exact, but cheap, for three reasons:

- a mask score is at most 1, so a (query, class) pair whose class score does not exceed its
  threshold can never be detected: mask logits exist only for the queries that are left;
- a query's mask is resized once, however many classes it appears with;
- an interpolated logit is positive only next to a positive one, so only that part is resized.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import RecipeError
from vpp_deploy.results import Detections

Size = tuple[int, int]
"""(height, width) in pixels."""

Sizes = tuple[Size, Size, Size]
"""The padded input, the resized frame in its top left corner, and the original frame."""


@dataclass(frozen=True)
class PostprocessSettings:
    """Scores that a pair has to exceed (MODEL.md 4).

    Attributes:
        static_threshold: for pairs of static queries, in [0, 1).
        track_threshold: for pairs of track queries, in [0, 1).

    Raises:
        RecipeError: a threshold is outside [0, 1).
    """

    static_threshold: float = 0.3
    track_threshold: float = 0.25

    def __post_init__(self) -> None:
        for name in ("static_threshold", "track_threshold"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise RecipeError(f"{name} is {value}; give a score from 0 to below 1")


@dataclass(frozen=True)
class Pairs:
    """The (query, class) pairs that can still be detected, best class score first.

    Attributes:
        query_ids: (p,) int64, rows of the head's output.
        labels: (p,) int64, class index from 0.
        scores: (p,) float32, softmax over the classes and the background.
        thresholds: (p,) float32, what the final score has to exceed.
    """

    query_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    thresholds: NDArray[np.float32]


@dataclass(frozen=True)
class _Mask:
    """One query's mask; nothing outside `inside` is set, which lies at (top, left)."""

    inside: NDArray[np.bool_]
    top: int
    left: int
    score: float


@dataclass(frozen=True)
class _Window:
    """One axis of the part of a mask that can hold positive logits.

    Attributes:
        low: the part to take of the H/4 axis.
        resized: where the frame's part lies in that part's enlargement.
        frame: the same part on the original frame's axis.
    """

    low: slice
    resized: slice
    frame: slice


def detect(
    class_logits: NDArray[np.float32],
    mask_embeds: NDArray[np.float32],
    mask_features: NDArray[np.float32],
    track_valid: NDArray[np.bool_],
    input_size: Size,
    resized: Size,
    frame_size: Size,
    settings: PostprocessSettings | None = None,
) -> Detections:
    """Instances of one frame (MODEL.md 4).

    Args:
        class_logits: (Q, classes + 1) of the last layer, background last; the static queries
            come first, then one row per track slot.
        mask_embeds: (Q, D) of the last layer.
        mask_features: (D, H/4, W/4).
        track_valid: (slots,) which slots hold a track; slots are filled from the front.
        input_size: (H, W), the padded input.
        resized: (h, w), the frame within it, top left.
        frame_size: (Ho, Wo), the original frame.
        settings: the published thresholds if not given.

    Returns:
        The instances, best score first.

    Raises:
        FloatingPointError: a score or a mask is not finite: it would count as nothing found.
    """
    if not (np.isfinite(class_logits).all() and np.isfinite(mask_embeds).all()):
        raise FloatingPointError("class logits or mask embeddings hold NaN or infinity")
    pairs = select_pairs(class_logits, track_valid, settings or PostprocessSettings())
    rows, row_of_pair = np.unique(pairs.query_ids, return_inverse=True)
    depth, *low_size = mask_features.shape
    mask_logits = mask_embeds[rows] @ mask_features.reshape(depth, -1)
    if not np.isfinite(mask_logits).all():
        raise FloatingPointError("mask logits hold NaN or infinity")
    sizes = (input_size, resized, frame_size)
    return score_pairs(pairs, mask_logits.reshape(-1, *low_size), row_of_pair, sizes)


def select_pairs(
    class_logits: NDArray[np.float32],
    track_valid: NDArray[np.bool_],
    settings: PostprocessSettings,
) -> Pairs:
    """The best (static + valid tracks) pairs, without those that cannot reach their threshold.

    Args:
        class_logits: (Q, classes + 1), as in `detect`.
        track_valid: (slots,), as in `detect`.
        settings: the thresholds.
    """
    num_tracks = int(np.count_nonzero(track_valid))
    assert track_valid[:num_tracks].all(), "track slots are filled from the front"
    num_static = len(class_logits) - len(track_valid)
    num_queries = num_static + num_tracks

    logits = class_logits[:num_queries]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    class_scores = (exp / exp.sum(axis=1, keepdims=True))[:, :-1]

    thresholds = np.full(num_queries, settings.static_threshold, np.float32)
    thresholds[num_static:] = settings.track_threshold
    # First those that matter for the ranking (all above the lowest threshold), then the cut at
    # the best num_queries, and only then each pair's own threshold.
    query_ids, labels = np.nonzero(class_scores > thresholds.min())
    scores = class_scores[query_ids, labels]
    best = np.argsort(-scores, kind="stable")[:num_queries]
    best = best[scores[best] > thresholds[query_ids[best]]]
    query_ids = query_ids[best]
    return Pairs(query_ids, labels[best], scores[best], thresholds[query_ids])


def score_pairs(
    pairs: Pairs,
    mask_logits: NDArray[np.float32],
    row_of_pair: NDArray[np.intp],
    sizes: Sizes,
) -> Detections:
    """Masks, final scores and boxes of the pairs that exceed their thresholds.

    Args:
        pairs: p pairs, best class score first.
        mask_logits: (n, H/4, W/4), one for each query among the pairs.
        row_of_pair: (p,) which of the n belongs to each pair.
        sizes: from the padded input to the original frame.
    """
    masks = [_resize_mask(logits, sizes) for logits in mask_logits]
    mask_scores = np.array([mask.score for mask in masks], np.float32)
    # Rounding cannot lift a product above its class score (factors of at most 1 round down to
    # at most the same number), so the pairs that select_pairs left out stay out.
    scores = pairs.scores * mask_scores[row_of_pair]
    kept = np.flatnonzero(scores > pairs.thresholds)
    kept = kept[np.argsort(-scores[kept], kind="stable")]

    boxes = np.zeros((len(kept), 4), np.float32)
    full = np.zeros((len(kept), *sizes[-1]), np.bool_)
    for i, row in enumerate(row_of_pair[kept]):
        mask = masks[row]
        height, width = mask.inside.shape
        bottom, right = mask.top + height, mask.left + width
        boxes[i] = mask.left, mask.top, right, bottom
        full[i, mask.top : bottom, mask.left : right] = mask.inside
    return Detections(pairs.query_ids[kept], pairs.labels[kept], scores[kept], boxes, full)


def _resize_mask(logits: NDArray[np.float32], sizes: Sizes) -> _Mask:
    """(H/4, W/4) logits, resized in two steps to the frame: the mask and its score."""
    left, top, width, height = cv2.boundingRect((logits > 0).view(np.uint8))
    heights, widths = zip(logits.shape, *sizes, strict=True)
    rows = _window(top, height, *heights)
    cols = _window(left, width, *widths)

    part = logits[rows.low, cols.low]
    scale = sizes[0][0] // logits.shape[0]
    part = _resize(part, part.shape[0] * scale, part.shape[1] * scale)
    part = part[rows.resized, cols.resized]
    part = _resize(part, rows.frame.stop - rows.frame.start, cols.frame.stop - cols.frame.start)

    inside = part > 0
    left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
    tight = slice(top, top + height), slice(left, left + width)
    inside = inside[tight]
    values = part[tight][inside]
    total = np.sum(1 / (1 + np.exp(-values)), dtype=np.float64)
    score = float(total / (len(values) + 1e-6))
    return _Mask(inside, rows.frame.start + top, cols.frame.start + left, score)


def _window(start: int, length: int, low: int, padded: int, resized: int, frame: int) -> _Window:
    """Plans both resizes of one axis for the positive logits in [start, start + length).

    A crop may be resized on its own where its grid meets the frame's as that of the whole does:
    every `resized / gcd` pixels, which are `frame / gcd` pixels of the frame. So it ends at such
    places, at least one pixel beyond anything positive: what its replicated border changes is
    not positive, nor is what it leaves out.

    Args:
        start: first index of a positive logit on the H/4 axis.
        length: up to the last one; 0 if there is none.
        low: size of the H/4 axis.
        padded: size of the padded input, a multiple of `low`.
        resized: size of the resized frame.
        frame: size of the original frame.
    """
    assert padded % low == 0
    scale = padded // low
    blocks = math.gcd(resized, frame)
    block = resized // blocks
    first = min(blocks, max(0, scale * (start - 1) - 1) // block)
    last = min(blocks, scale * (start + length + 1) // block + 1) if length else first
    begin = first * block // scale
    # One more logit at the end: where the frame ends inside the mask, its last pixels lean on it.
    end = min(low, (last * block - 1) // scale + 2)
    return _Window(
        slice(begin, end),
        slice(first * block - begin * scale, last * block - begin * scale),
        slice(first * frame // blocks, last * frame // blocks),
    )


def _resize(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear, align_corners=False, no antialiasing; nothing to do if the size is right already.

    OpenCV's INTER_LINEAR agrees with torch's interpolate(mode="bilinear") to rounding, in both
    directions (measured 5.0 against 2.13; torch rounds its coordinates to float32).
    """
    if values.shape == (height, width) or not height or not width:
        return values[:height, :width]
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float32, copy=False)

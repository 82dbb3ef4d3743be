"""From the head's last predictions to scored masks at the frame's size (MODEL.md 4).

Exact, but cheap:

- a mask score is at most 1, so a (query, class) pair whose class score does not exceed its
  threshold can never be detected: masks are made for the queries that are left alone;
- a query's mask is made once, however many classes it appears with;
- an interpolated logit is positive only next to a positive one, so only that part is made;
- what stays of it is the sum for the score, and one bit a pixel.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import RecipeError
from vpp_deploy.runtime.detections import Detections, PackedMask, Size
from vpp_deploy.runtime.resampling import Axis, enlarge, plan_axis

Sizes = tuple[Size, Size, Size]
"""The padded input, the resized frame in its top left corner, and the original frame."""

# Outputs in a block: so few that the banded matrices hold few zeros, and that a product stays below
# the size at which OpenBLAS starts threads of its own. Columns make whole bytes of bits.
_ROWS, _COLS = 16, 64

# Of float32, made at a time. Smaller parts would fit the caches better, but between operations of
# less than 0.1 ms the threads wait for each other over Python's lock.
_PART_PIXELS = 1 << 20

_MASKS_PER_THREAD = 4  # fewer are made as soon as another thread has woken up


@dataclass(frozen=True)
class PostprocessSettings:
    """Scores that a pair has to exceed (MODEL.md 4), and how many threads find that out.

    Attributes:
        static_threshold: for pairs of static queries, in [0, 1).
        track_threshold: for pairs of track queries, in [0, 1).
        threads: at most that many masks are made at a time; None, or more than there are cores,
            is one per core. Results do not depend on it.

    Raises:
        RecipeError: a threshold is outside [0, 1), or there is no thread.
    """

    static_threshold: float = 0.3
    track_threshold: float = 0.25
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("static_threshold", "track_threshold"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise RecipeError(f"{name} is {value}; give a score from 0 to below 1")
        if self.threads is not None and self.threads < 1:
            raise RecipeError(f"threads is {self.threads}; give 1 or more")


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


def detect(
    class_logits: NDArray[np.float32],
    mask_logits: NDArray[np.float32],
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
        mask_logits: (Q, H/4, W/4) of the last layer.
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
    settings = settings or PostprocessSettings()
    pairs = select_pairs(class_logits, track_valid, settings)
    rows, row_of_pair = np.unique(pairs.query_ids, return_inverse=True)
    candidates = mask_logits[rows]
    if not np.isfinite(candidates).all():
        raise FloatingPointError("mask logits hold NaN or infinity")
    sizes = (input_size, resized, frame_size)
    return score_pairs(pairs, candidates, row_of_pair, sizes, settings.threads)


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

    Raises:
        FloatingPointError: a logit is not finite.
    """
    if not np.isfinite(class_logits).all():
        raise FloatingPointError("class logits hold NaN or infinity")
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
    threads: int | None = None,
) -> Detections:
    """Masks, final scores and boxes of the pairs that exceed their thresholds.

    Args:
        pairs: p pairs, best class score first.
        mask_logits: (n, H/4, W/4), one for each query among the pairs.
        row_of_pair: (p,) which of the n belongs to each pair.
        sizes: from the padded input to the original frame.
        threads: as in `PostprocessSettings`.
    """
    heights, widths = zip(mask_logits.shape[1:], *sizes, strict=True)
    make = partial(_make_mask, rows=plan_axis(*heights, _ROWS), cols=plan_axis(*widths, _COLS))
    num_cores = cv2.getNumberOfCPUs()
    num_threads = min(num_cores, threads or num_cores)
    together = num_threads > 1 and len(mask_logits) >= 2 * _MASKS_PER_THREAD
    made = list((_pool(num_threads).map if together else map)(make, mask_logits))
    masks = [mask for mask, _ in made]
    mask_scores = np.array([score for _, score in made], np.float32)
    return score_masks(pairs, masks, mask_scores, row_of_pair, sizes[-1])


def score_masks(
    pairs: Pairs,
    masks: Sequence[PackedMask],
    mask_scores: NDArray[np.float32],
    row_of_pair: NDArray[np.intp],
    frame_size: Size,
) -> Detections:
    """The pairs that exceed their thresholds, best first.

    Args:
        pairs: p pairs.
        masks: n masks, one for each query among the pairs.
        mask_scores: (n,) mean sigmoid inside each.
        row_of_pair: (p,) which of the n belongs to each pair.
        frame_size: (Ho, Wo) of the masks.
    """
    # Rounding cannot lift a product above its class score (factors of at most 1 round down to
    # at most the same number), so the pairs that select_pairs left out stay out.
    scores = pairs.scores * mask_scores[row_of_pair]
    kept = np.flatnonzero(scores > pairs.thresholds)
    kept = kept[np.argsort(-scores[kept], kind="stable")]

    found = [masks[row] for row in row_of_pair[kept]]
    boxes = np.array([mask.box for mask in found], np.float32).reshape(-1, 4)
    return Detections(
        pairs.query_ids[kept], pairs.labels[kept], scores[kept], boxes, found, frame_size
    )


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Shared by all sessions of the process; OpenCV and NumPy release Python's lock."""
    return ThreadPoolExecutor(threads, "vpp-masks")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def _make_mask(logits: NDArray[np.float32], rows: Axis, cols: Axis) -> tuple[PackedMask, float]:
    """(H/4, W/4) logits to the frame's size: the mask and the mean sigmoid inside it."""
    left, top, width, height = cv2.boundingRect((logits > 0).view(np.uint8))
    rows, cols = rows.around(top, top + height), cols.around(left, left + width)
    halves = 0.5 * logits  # sigmoid(x) = 1/2 + tanh(x/2)/2
    bits = np.zeros((len(rows) * rows.size, len(cols) * cols.size // 8), np.uint8)
    blocks_in_part = max(1, _PART_PIXELS // (rows.size * max(1, len(cols) * cols.size)))
    total = 0.0
    for first in range(0, len(rows) if len(cols) else 0, blocks_in_part):
        values = enlarge(halves, rows[first : first + blocks_in_part], cols)
        begin = first * rows.size
        bits[begin : begin + len(values)] = np.packbits(values > 0, axis=1)
        cv2.threshold(values, 0, 0, cv2.THRESH_TOZERO, dst=values)
        np.tanh(values, out=values)
        total += cv2.sumElems(values)[0]
    mask = PackedMask.of_bits(bits, rows.start, cols.start)
    return mask, 0.5 * (mask.area + total) / (mask.area + 1e-6)

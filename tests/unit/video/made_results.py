"""A frame's result made of blobs, for what writes results."""

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.results import FrameResult, TokenMap, Tracks

CLASSES = ("airplane", "bear", "bird", "boat")
HEIGHT, WIDTH = 24, 40


def blob(x: int, y: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (x, y), (7, 4), 20, 0, 360, 1, -1)
    return mask > 0


def make_result(
    index: int,
    *tracks: tuple[int, int, float, NDArray[np.bool_]],
    dropped: tuple[int, ...] = (),
    alive: tuple[int, ...] | None = None,
    tokens: TokenMap | None = None,
) -> FrameResult:
    """Make a frame's result of (id, label, score, mask) for each track."""
    masks = np.array([mask for *_, mask in tracks], np.bool_).reshape(-1, HEIGHT, WIDTH)
    boxes = np.zeros((len(tracks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            ys, xs = np.nonzero(mask)
            box[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    ids = np.array([track[0] for track in tracks], np.int64)
    return FrameResult(
        index=index,
        time_s=index / 30,
        tracks=Tracks(
            ids=ids,
            labels=np.array([track[1] for track in tracks], np.int64),
            scores=np.array([track[2] for track in tracks], np.float32),
            boxes=boxes,
            masks=masks,
            query_ids=np.full(len(tracks), -1, np.int64),
        ),
        stage_ms={"backbone": 1.23456, "head": 2.0},
        reset="start" if index == 0 else None,
        tracks_dropped=dropped,
        alive=ids if alive is None else np.array(alive, np.int64),
        tokens=tokens,
    )

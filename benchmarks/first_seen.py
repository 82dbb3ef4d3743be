"""How long an object that enters late goes unseen."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from vpp_deploy.errors import DatasetError
from vpp_deploy.evaluation.dataset import Dataset, Instance
from vpp_deploy.evaluation.masks import shows

MIN_IOU = 0.5


@dataclass(frozen=True)
class FirstSeen:
    """Objects that are not there in a video's first frame, and when they are found.

    Attributes:
        objects: how many there are.
        found: share of them that is found in some frame.
        frames_unseen: mean number of frames in which an object shows before it is found first; all
            of its frames, if it never is.
    """

    objects: int
    found: float
    frames_unseen: float


def late_objects(dataset: Dataset) -> list[Instance]:
    """Those that show, but not in their video's first frame; no crowds.

    Raises:
        DatasetError: there are none.
    """
    late = [
        one
        for one in dataset.instances
        if not shows(one.masks[0]) and any(map(shows, one.masks)) and not one.is_crowd
    ]
    if not late:
        raise DatasetError(
            f"{dataset.path}: every object shows in its video's first frame; give a dataset with "
            "objects that enter late"
        )
    return late


def first_seen(dataset: Dataset, results: Path) -> FirstSeen:
    """Compares labels and tracks frame by frame; the class does not matter, an IoU of 0.5 does.

    Args:
        dataset: the labels.
        results: tracks in YouTube-VIS's form, with the dataset's ids.

    Raises:
        DatasetError: no object enters late.
    """
    late = late_objects(dataset)
    tracks: dict[int, list[list[dict[str, Any] | None]]] = defaultdict(list)
    for entry in json.loads(results.read_text(encoding="utf-8")):
        tracks[entry["video_id"]].append(entry["segmentations"])
    delays = [_unseen(instance, tracks[instance.video_id]) for instance in late]
    return FirstSeen(
        len(late),
        float(np.mean([found for _, found in delays])),
        float(np.mean([frames for frames, _ in delays])),
    )


def _unseen(instance: Instance, tracks: list[list[dict[str, Any] | None]]) -> tuple[int, bool]:
    """Frames in which it showed and was not found yet, and whether it ever was."""
    missed = 0
    for t, mask in enumerate(instance.masks):
        if not shows(mask):
            continue
        given = [track[t] for track in tracks if track[t] is not None]
        if given and coco_mask.iou(given, [mask], [0]).max() >= MIN_IOU:
            return missed, True
        missed += 1
    return missed, False

"""Small labelled datasets, as files and as they are after reading."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.evaluation.dataset import Dataset, Instance, LabelledVideo
from vpp_deploy.video.frames_jsonl import Rle, encode_masks

SIZE = (12, 16)

Boxes = Sequence[tuple[int, int, int, int] | None]
"""For each frame (top, left, bottom, right) of a rectangle, None where it is not seen."""


def masks(boxes: Boxes, size: tuple[int, int] = SIZE) -> list[Rle | None]:
    """Rectangles as encoded masks."""
    drawn = np.zeros((len(boxes), *size), np.bool_)
    for mask, box in zip(drawn, boxes, strict=True):
        if box is not None:
            mask[box[0] : box[2], box[1] : box[3]] = True
    rles = encode_masks(drawn)
    return [None if box is None else rle for rle, box in zip(rles, boxes, strict=True)]


def labels(
    images: Mapping[str, Sequence[NDArray[np.uint8]]],
    categories: Sequence[str],
    instances: Sequence[tuple[int, str, Sequence[Rle | None]]],
) -> dict[str, Any]:
    """A document: videos have ids 7, 8, ..., categories 11, 12, ...; instances name a video by its
    place."""
    return {
        "categories": [{"id": 11 + n, "name": name} for n, name in enumerate(categories)],
        "videos": [
            {
                "id": 7 + n,
                "file_names": [f"{name}/{i:05}.jpg" for i in range(len(frames))],
                "height": frames[0].shape[0],
                "width": frames[0].shape[1],
                "length": len(frames),
            }
            for n, (name, frames) in enumerate(images.items())
        ],
        "annotations": [
            {
                "id": n,
                "video_id": 7 + video,
                "category_id": 11 + categories.index(name),
                "iscrowd": 0,
                "segmentations": list(segmentations),
            }
            for n, (video, name, segmentations) in enumerate(instances)
        ],
    }


def write_dataset(
    folder: Path, images: Mapping[str, Sequence[NDArray[np.uint8]]], document: Mapping[str, Any]
) -> Path:
    """The images and the document, in the layout of YouTube-VIS."""
    for name, frames in images.items():
        (folder / "JPEGImages" / name).mkdir(parents=True)
        for i, rgb in enumerate(frames):
            path = folder / "JPEGImages" / name / f"{i:05}.jpg"
            cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def dataset(
    num_frames: Sequence[int],
    categories: Sequence[str],
    instances: Sequence[tuple[int, str, Sequence[Rle | None]]],
) -> Dataset:
    """As if it had been read; ids as `labels` gives them."""
    videos = [
        LabelledVideo(7 + n, f"video{n}", tuple(map(Path, map(str, range(count)))), SIZE)
        for n, count in enumerate(num_frames)
    ]
    return Dataset(
        Path("made.json"),
        {11 + n: name for n, name in enumerate(categories)},
        tuple(videos),
        tuple(
            Instance(7 + video, 11 + categories.index(name), False, tuple(segmentations))
            for video, name, segmentations in instances
        ),
    )

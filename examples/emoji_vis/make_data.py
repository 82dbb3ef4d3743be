"""Writes a split in YouTube-VIS's layout: `python -m examples.emoji_vis.make_data test FOLDER`.

In the folder: `JPEGImages/VIDEO/00000.jpg` and so on, and `instances.json` with a run-length
encoded mask of every object in every frame. The same arguments give the same pictures.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from examples.emoji_vis.artwork import CLASSES
from examples.emoji_vis.commands import command, frame_size
from examples.emoji_vis.photos import PHOTOS, Split
from examples.emoji_vis.scenes import Scene, random_scene
from vpp_deploy.errors import VideoError
from vpp_deploy.files import written_aside
from vpp_deploy.video.frames_jsonl import encode_masks

QUALITY = 90

_ORIGIN = "emoji over photographs"


def write_split(
    folder: Path,
    split: Split,
    num_clips: int,
    num_frames: int,
    size: tuple[int, int],
    seed: int,
    *,
    late: bool = False,
) -> None:
    """Writes the clips of a split.

    Args:
        folder: new, or of an earlier run that is overwritten; its other pictures stay.
        split: decides on photographs and drawings.
        num_clips: videos.
        num_frames: of each.
        size: (H, W) of the frames.
        seed: with the number of a clip it decides on everything in it.
        late: objects enter late, as `random_scene` takes it.

    Raises:
        VideoError: the font or a photograph is not installed, the folder has labels of another
            origin, or an image cannot be written.
        OSError: another file cannot. What the folder has then is no dataset.
    """
    labels = folder / "instances.json"
    _check_labels(labels)
    aspect = size[1] / size[0]
    # What is not installed shows here, while the earlier run's labels are still there.
    random_scene((seed, 1), split, aspect, num_frames, late=late).draw(0, size)
    labels.unlink(missing_ok=True)  # the pictures that they are of are about to change
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video_id in range(1, num_clips + 1):
        scene = random_scene((seed, video_id), split, aspect, num_frames, late=late)
        names = [f"emoji{video_id:03}/{t:05}.jpg" for t in range(num_frames)]
        masks = _write_frames(folder / "JPEGImages", names, scene, size)
        shape = {"height": size[0], "width": size[1], "length": num_frames}
        videos.append({"id": video_id, "file_names": names, **shape})
        for mover, masks_FHW in zip(scene.movers, masks.swapaxes(0, 1), strict=True):
            if masks_FHW.any():
                annotation = {
                    "id": len(annotations) + 1,
                    "video_id": video_id,
                    "category_id": mover.drawing.label + 1,
                    "iscrowd": 0,
                    "drawing": mover.drawing.text,
                    "seen_in_training": mover.drawing.seen,
                }
                annotations.append(annotation | shape | _track(masks_FHW))
    credits = [f"{p.package}/{p.name}: {p.credit}" for p in PHOTOS if p.split == split]
    text = json.dumps(
        {
            "info": {
                "description": f"{_ORIGIN}, {split}, seed {seed}"
                + (", entering late" if late else ""),
                "drawings": "Noto Color Emoji, SIL Open Font License 1.1",
                "photographs": credits,
            },
            "categories": [
                {"id": label + 1, "name": name, "supercategory": "object"}
                for label, name in enumerate(CLASSES)
            ],
            "videos": videos,
            "annotations": annotations,
        },
        ensure_ascii=False,
    )
    with written_aside(labels) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _check_labels(labels: Path) -> None:
    try:
        if str(json.loads(labels.read_bytes())["info"]["description"]).startswith(_ORIGIN):
            return
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError):
        pass
    raise VideoError(f"{labels} was not written by this command; choose another folder")


def _write_frames(
    folder: Path, names: list[str], scene: Scene, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """(F, n, H, W) masks."""
    masks = []
    for t, name in enumerate(names):
        picture = scene.draw(t, size)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        bgr = np.ascontiguousarray(picture.image[..., ::-1])
        if not cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
            raise VideoError(f"{path} cannot be written; check that its folder has space")
        masks.append(picture.masks)
    return np.stack(masks)


def _track(masks_FHW: NDArray[np.bool_]) -> dict[str, Any]:
    """Masks, boxes (x, y, width, height) and areas by frame, null where the object is hidden."""
    present = [bool(mask.any()) for mask in masks_FHW]
    rles = encode_masks(masks_FHW)
    return {
        "segmentations": [r if p else None for r, p in zip(rles, present, strict=True)],
        "bboxes": [
            coco_mask.toBbox(r).tolist() if p else None for r, p in zip(rles, present, strict=True)
        ],
        "areas": [
            int(coco_mask.area(r)) if p else None for r, p in zip(rles, present, strict=True)
        ],
    }


def main(
    split: Annotated[Split, typer.Argument(help="Decides on photographs and drawings.")],
    folder: Annotated[Path, typer.Argument(help="Where the split is written.")],
    clips: Annotated[int, typer.Option(min=1)] = 16,
    frames: Annotated[int, typer.Option(min=1, help="Of each clip.")] = 20,
    size: Annotated[str, typer.Option(metavar="HxW")] = "180x320",
    seed: Annotated[int, typer.Option(min=0)] = 1,
    late: Annotated[bool, typer.Option("--late", help="All objects but one enter late.")] = False,
) -> None:
    """Write a split in YouTube-VIS's layout."""
    shape = frame_size(size)
    with command():
        write_split(folder, split, clips, frames, shape, seed, late=late)


if __name__ == "__main__":
    typer.run(main)

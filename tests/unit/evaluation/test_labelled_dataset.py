"""Reading a labelled dataset: what fits, and a clear line for whatever does not."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.unit.evaluation.made_dataset import SIZE, labels, masks, write_dataset
from vpp_deploy.errors import DatasetError
from vpp_deploy.evaluation.dataset import read_dataset

H, W = SIZE
IMAGES = {name: [np.full((H, W, 3), 40 * n, np.uint8) for n in range(3)] for name in ("a", "b")}
BOX = (2, 3, 7, 9)
GOOD = labels(
    IMAGES,
    ("cat", "dog"),
    [(0, "dog", masks([BOX, None, BOX])), (1, "cat", masks([None, BOX, (0, 0, H, W)]))],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "set", IMAGES, GOOD)


def test_all_that_is_needed_is_read(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert dataset.categories == {11: "cat", 12: "dog"}
    assert [(v.id, v.name, v.size, len(v.files)) for v in dataset.videos] == [
        (7, "a", SIZE, 3),
        (8, "b", SIZE, 3),
    ]
    assert dataset.num_frames == 6
    first, second = dataset.instances
    assert (first.video_id, first.category_id, first.is_crowd) == (7, 12, False)
    assert first.masks == tuple(masks([BOX, None, BOX]))
    assert [None if m is None else int(coco_mask.area(m)) for m in second.masks] == [
        None,
        30,
        H * W,
    ]
    with dataset.videos[0].open() as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [round(float(frame.rgb.mean())) for frame in frames] == [0, 40, 80]


def test_the_json_file_and_its_images_may_lie_apart(folder: Path, tmp_path: Path) -> None:
    labels_alone = (folder / "instances.json").rename(tmp_path / "valid.json")
    with pytest.raises(DatasetError, match=r"6 of 6 images are missing.*--images"):
        read_dataset(labels_alone)
    dataset = read_dataset(labels_alone, folder / "JPEGImages")
    assert dataset.videos[0].files[0] == folder / "JPEGImages" / "a" / "00000.jpg"


def test_plain_runs_become_the_same_masks(folder: Path) -> None:
    plain = copy.deepcopy(GOOD)
    mask = np.zeros(SIZE, np.uint8)
    mask[BOX[0] : BOX[2], BOX[1] : BOX[3]] = 1
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff([0, *edges, pixels.size]).tolist()
    plain["annotations"][0]["segmentations"][0] = {"size": list(SIZE), "counts": runs}
    (folder / "instances.json").write_text(json.dumps(plain))
    assert read_dataset(folder).instances[0].masks == tuple(masks([BOX, None, BOX]))


@pytest.mark.parametrize("seed", range(20))
def test_every_mask_that_coco_encodes_is_taken(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random(SIZE) < rng.random(), np.uint8)
    rle = coco_mask.encode(mask)
    document = copy.deepcopy(GOOD)
    text = rle["counts"].decode()
    document["annotations"][0]["segmentations"][0] = {"size": list(SIZE), "counts": text}
    (folder / "instances.json").write_text(json.dumps(document))
    taken = read_dataset(folder).instances[0].masks[0]
    assert taken == {"size": SIZE, "counts": text}


def set_rle(**fields: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0]["segmentations"][0] |= fields

    return change


def set_field(part: str, number: int, **fields: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document[part][number] |= fields

    return change


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no annotations": (lambda d: d.pop("annotations"), "annotations: Field required"),
    "nothing labelled": (lambda d: d["annotations"].clear(), "annotations: .* at least 1 item"),
    "no videos": (lambda d: d["videos"].clear(), "videos: .* at least 1 item"),
    "a video without frames": (set_field("videos", 0, file_names=[]), r"videos\.0\.file_names"),
    "no height": (set_field("videos", 1, height=0), r"videos\.1\.height"),
    "a huge height": (set_field("videos", 1, height=10**9), r"videos\.1\.height"),
    "a size in words": (set_field("videos", 1, width="wide"), r"videos\.1\.width"),
    "an id beyond NumPy's": (set_field("videos", 0, id=2**63), r"videos\.0\.id"),
    "a category beyond them": (set_field("categories", 0, id=-(2**63) - 1), r"categories\.0\.id"),
    "two videos of one id": (set_field("videos", 1, id=7), "2 videos are called 7"),
    "two categories of one id": (set_field("categories", 1, id=11), "2 categories are called 11"),
    "two categories of one name": (
        set_field("categories", 1, name="cat"),
        "2 categories are called 'cat'",
    ),
    "another video": (
        set_field("annotations", 1, video_id=99),
        r"annotations\.1 is of video 99",
    ),
    "another category": (
        set_field("annotations", 1, category_id=99),
        r"annotations\.1 is of category 99",
    ),
    "too few masks": (
        set_field("annotations", 0, segmentations=[None]),
        r"annotations\.0 has 1 segmentations, and its video a has 3 frames",
    ),
    "polygons": (
        set_field("annotations", 0, segmentations=[[[1, 2, 3, 4, 5, 6]], None, None]),
        r"annotations\.0\.segmentations\.0",
    ),
    "an image outside": (
        set_field("videos", 0, file_names=["../../secret.jpg"] * 3),
        "is no name of an image within",
    ),
    "an absolute image": (
        set_field("videos", 0, file_names=["/etc/passwd"] * 3),
        "is no name of an image within",
    ),
    "a missing image": (
        set_field("videos", 0, file_names=["a/00000.jpg", "a/00009.jpg", "a/00002.jpg"]),
        r"1 of 6 images are missing, the first is .*a.00009\.jpg",
    ),
    "a mask of another size": (set_rle(size=[W, H]), "its mask is 12x16, not 16x12"),
    "a mask that is cut off": (set_rle(counts="R"), "cut off"),
    "an empty mask text": (set_rle(counts=""), "do not add up to 16x12"),
    "too few runs": (set_rle(counts="5"), "do not add up to 16x12"),
    "too many runs": (set_rle(counts=[100, 92, 1]), "do not add up to 16x12"),
    "negative runs": (set_rle(counts=[-8, 200]), "do not add up to 16x12"),
    "a foreign letter": (set_rle(counts="\u00e9"), "not in COCO's encoding"),
    "endless digits": (set_rle(counts="o" * 1000), "not in COCO's encoding"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named(folder: Path, case: str) -> None:
    change, message = BAD[case]
    document = copy.deepcopy(GOOD)
    change(document)
    (folder / "instances.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=message) as raised:
        read_dataset(folder)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "runs",
    [
        [10, 5, 0, 4, 173],
        [10, 0, 0, 5, 0, 0, 0, 4, 173, 0],
        [0, 0, 10, 9, 173],
        [*[0] * 192, 10, 9, 173],  # as many as would overrun pycocotools' buffers
    ],
)
def test_runs_of_no_length_are_joined(folder: Path, runs: list[int]) -> None:
    document = copy.deepcopy(GOOD)
    set_rle(counts=runs)(document)
    (folder / "instances.json").write_text(json.dumps(document))
    given = read_dataset(folder).instances[0].masks[0]
    expected = coco_mask.frPyObjects({"size": [H, W], "counts": [10, 9, 173]}, H, W)
    assert given is not None
    assert given["counts"] == expected["counts"].decode()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff", "[" * 100_000])
def test_what_is_no_such_json_is_refused(folder: Path, text: str) -> None:
    (folder / "instances.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match="expected YouTube-VIS labels"):
        read_dataset(folder)


def test_a_folder_says_which_file_is_meant(folder: Path) -> None:
    (folder / "annotations.json").write_text(json.dumps(GOOD))
    with pytest.raises(DatasetError, match=r"both of instances\.json and annotations\.json"):
        read_dataset(folder)
    (folder / "annotations.json").unlink()
    (folder / "instances.json").unlink()
    with pytest.raises(DatasetError, match=r"neither of instances\.json and annotations\.json"):
        read_dataset(folder)
    with pytest.raises(DatasetError, match="no such file or folder"):
        read_dataset(folder / "nowhere")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(DatasetError, match="is no regular file"):
        read_dataset(tmp_path / "labels.json")


def test_an_image_of_another_size_ends_it(folder: Path) -> None:
    wrong = folder / "JPEGImages" / "b" / "00001.jpg"
    cv2.imwrite(str(wrong), np.zeros((H, W + 1, 3), np.uint8))
    video = read_dataset(folder).videos[1]
    with video.open() as source:
        next(iter(source))
        with pytest.raises(DatasetError, match=r"00001\.jpg is 17x12, .* are for 16x12"):
            next(iter(source))


@pytest.mark.parametrize("content", [b"", b"no image", b"P6 65535 65535 255\n"])
def test_a_damaged_image_ends_it(folder: Path, content: bytes) -> None:
    (folder / "JPEGImages" / "a" / "00000.jpg").write_bytes(content)
    with read_dataset(folder).videos[0].open() as source:
        frames = iter(source)
        with pytest.raises(DatasetError, match=r"00000\.jpg is no image, or a damaged one"):
            next(frames)


def test_categories_can_be_left_out(folder: Path) -> None:
    cats = read_dataset(folder).only({"cat", "unicorn"})
    assert cats.categories == {11: "cat"}
    assert [instance.category_id for instance in cats.instances] == [11]
    assert len(cats.videos) == 2

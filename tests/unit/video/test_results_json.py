import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from vpp_deploy.errors import VideoError
from vpp_deploy.results import FrameResult, Tracks
from vpp_deploy.video.results_json import FramesJsonl, ResultsJson, encode_masks

# pycocotools 2.0.11's decode() warns under NumPy 2. Remove when it knows the copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ("airplane", "bear", "bird", "boat")
HEIGHT, WIDTH = 24, 40


def blob(x: int, y: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (x, y), (7, 4), 20, 0, 360, 1, -1)
    return mask > 0


def make_result(index: int, *tracks: tuple[int, int, float, NDArray[np.bool_]]) -> FrameResult:
    """Make a frame's result of (id, label, score, mask) for each track."""
    masks = np.array([mask for *_, mask in tracks], np.bool_).reshape(-1, HEIGHT, WIDTH)
    boxes = np.zeros((len(tracks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            ys, xs = np.nonzero(mask)
            box[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return FrameResult(
        index=index,
        time_s=index / 30,
        tracks=Tracks(
            ids=np.array([track[0] for track in tracks], np.int64),
            labels=np.array([track[1] for track in tracks], np.int64),
            scores=np.array([track[2] for track in tracks], np.float32),
            boxes=boxes,
            masks=masks,
            query_ids=np.zeros(len(tracks), np.int64),
        ),
        stage_ms={"backbone": 1.23456, "head": 2.0},
        first=index == 0,
        tracks_dropped=0,
    )


def write_results(path: Path, *results: FrameResult) -> list[dict[str, Any]]:
    with ResultsJson(path) as sink:
        for result in results:
            sink.write(result, encode_masks(result.tracks.masks))
    entries: list[dict[str, Any]] = json.loads(path.read_text())
    return entries


def decode(rle: Any) -> NDArray[np.bool_]:
    decoded: NDArray[np.bool_] = coco_mask.decode(rle).astype(bool)
    return decoded


def test_encoded_masks_decode_to_themselves() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((5, 33, 47)) > 0.7
    masks[1], masks[2] = False, True
    rles = encode_masks(masks)
    assert all(type(rle["counts"]) is str and rle["size"] == [33, 47] for rle in rles)
    for rle, mask in zip(rles, masks, strict=True):
        assert np.array_equal(decode(rle), mask)
        assert rle["counts"].encode() == coco_mask.encode(np.asfortranarray(mask))["counts"]


def test_masks_of_any_memory_layout_encode_the_same() -> None:
    masks = np.random.default_rng(0).random((3, 20, 31)) > 0.5
    strided = np.repeat(masks, 2, axis=2)[:, :, ::2]
    assert encode_masks(strided) == encode_masks(np.asfortranarray(masks)) == encode_masks(masks)


def test_no_masks() -> None:
    assert encode_masks(np.zeros((0, 4, 5), np.bool_)) == []


def test_a_line_is_there_as_soon_as_its_frame_is_written(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    mask = blob(10, 10)
    result = make_result(0, (3, 2, 0.87654321, mask))
    with FramesJsonl(path, CLASSES) as sink:
        sink.write(result, encode_masks(result.tracks.masks))
        (line,) = path.read_text().splitlines()
        sink.write(make_result(7), [])
        assert len(path.read_text().splitlines()) == 2
    first = json.loads(line)
    (track,) = first.pop("tracks")
    assert first == {
        "index": 0,
        "time_s": 0.0,
        "first": True,
        "stage_ms": {"backbone": 1.235, "head": 2.0},
        "tracks_dropped": 0,
    }
    assert np.array_equal(decode(track.pop("rle")), mask)
    ys, xs = np.nonzero(mask)
    assert track == {
        "id": 3,
        "label": 2,
        "class": "bird",
        "score": 0.876543,
        "box": [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1],
        "area": mask.sum(),
    }
    second = json.loads(path.read_text().splitlines()[1])
    assert (second["index"], second["time_s"], second["tracks"]) == (7, 0.233333, [])


def test_results_have_the_youtube_vis_format(tmp_path: Path) -> None:
    masks = [blob(8, 8), blob(12, 9), blob(30, 15)]
    entries = write_results(
        tmp_path / "results.json",
        make_result(0, (0, 1, 0.5, masks[0])),
        make_result(2),
        make_result(4, (0, 1, 0.75, masks[1]), (5, 3, 0.25, masks[2])),
    )
    assert [set(entry) for entry in entries] == [
        {"video_id", "score", "category_id", "segmentations"}
    ] * 2
    bear, boat = entries
    assert (bear["video_id"], bear["score"], bear["category_id"]) == (1, 0.625, 2)
    assert (boat["video_id"], boat["score"], boat["category_id"]) == (1, 0.25, 4)
    assert [rle is None for rle in bear["segmentations"]] == [False, True, False]
    assert [rle is None for rle in boat["segmentations"]] == [True, True, False]
    assert np.array_equal(decode(bear["segmentations"][0]), masks[0])
    assert np.array_equal(decode(bear["segmentations"][2]), masks[1])
    assert np.array_equal(decode(boat["segmentations"][2]), masks[2])


@pytest.mark.parametrize(
    ("labels", "category"), [([3, 1, 1], 2), ([3, 1, 3, 1], 2), ([3], 4), ([2, 0, 0, 2, 2], 3)]
)
def test_the_class_given_most_often_wins_and_ties_go_to_the_smallest(
    tmp_path: Path, labels: list[int], category: int
) -> None:
    results = [make_result(i, (0, label, 0.5, blob(9, 9))) for i, label in enumerate(labels)]
    (entry,) = write_results(tmp_path / "r.json", *results)
    assert entry["category_id"] == category


def test_an_empty_mask_is_a_result(tmp_path: Path) -> None:
    (entry,) = write_results(
        tmp_path / "r.json", make_result(0, (0, 1, 0.5, np.zeros((HEIGHT, WIDTH), np.bool_)))
    )
    assert decode(entry["segmentations"][0]).sum() == 0


def test_no_tracks_is_an_empty_list(tmp_path: Path) -> None:
    assert write_results(tmp_path / "r.json", make_result(0)) == []
    assert write_results(tmp_path / "r.json") == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_results_so_far_are_written_when_the_run_ends_by_an_error(
    tmp_path: Path, error: type[BaseException]
) -> None:
    result = make_result(0, (0, 1, 0.5, blob(9, 9)))
    rles = encode_masks(result.tracks.masks)

    def run() -> None:
        with (
            FramesJsonl(tmp_path / "f.jsonl", CLASSES) as lines,
            ResultsJson(tmp_path / "r.json") as r,
        ):
            lines.write(result, rles)
            r.write(result, rles)
            raise error

    with pytest.raises(error):
        run()
    assert len(json.loads((tmp_path / "r.json").read_text())) == 1
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 1


def test_results_replace_an_old_file_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    result = make_result(0, (0, 1, 0.5, blob(9, 9)))
    with ResultsJson(path) as sink:
        sink.write(result, encode_masks(result.tracks.masks))
        assert path.read_text() == "old"
    sink.close()  # twice is allowed
    assert len(json.loads(path.read_text())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_an_unwritable_place_is_found_out_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"r\.json.* cannot be written \(No such file"):
        ResultsJson(tmp_path / "none" / "r.json")
    with pytest.raises(VideoError, match="cannot be written"):
        FramesJsonl(tmp_path, CLASSES)

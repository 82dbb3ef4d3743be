import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tests.unit.video.made_results import CLASSES, HEIGHT, WIDTH, blob, make_result
from vpp_deploy.errors import ResumeError, VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.video.frames_jsonl import FramesJsonl
from vpp_deploy.video.results_json import write_results

# pycocotools 2.0.11's decode() warns under NumPy 2. Remove when it knows the copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def entries_of(folder: Path, *results: FrameResult) -> list[dict[str, Any]]:
    with FramesJsonl(folder / "f.jsonl", CLASSES) as lines:
        for result in results:
            lines.write(result)
    write_results(folder / "f.jsonl", folder / "r.json")
    assert {path.name for path in folder.iterdir()} == {"f.jsonl", "r.json"}
    entries: list[dict[str, Any]] = json.loads((folder / "r.json").read_text())
    return entries


def decode(rle: Any) -> NDArray[np.bool_]:
    decoded: NDArray[np.bool_] = coco_mask.decode(rle).astype(bool)
    return decoded


def test_the_youtube_vis_format(tmp_path: Path) -> None:
    masks = [blob(8, 8), blob(12, 9), blob(30, 15)]
    entries = entries_of(
        tmp_path,
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


@pytest.mark.parametrize("seen", [[0], [5], [0, 5], [2, 3], [1, 2, 4], list(range(6))])
def test_frames_without_the_track_are_null(tmp_path: Path, seen: list[int]) -> None:
    results = [make_result(i, *[(7, 0, 0.5, blob(9, 9))] if i in seen else []) for i in range(6)]
    (entry,) = entries_of(tmp_path, *results)
    found = [i for i, rle in enumerate(entry["segmentations"]) if rle is not None]
    assert len(entry["segmentations"]) == 6
    assert found == seen


@pytest.mark.parametrize(
    ("labels", "category"), [([3, 1, 1], 2), ([3, 1, 3, 1], 2), ([3], 4), ([2, 0, 0, 2, 2], 3)]
)
def test_the_class_given_most_often_wins_and_ties_go_to_the_smallest(
    tmp_path: Path, labels: list[int], category: int
) -> None:
    results = [make_result(i, (0, label, 0.5, blob(9, 9))) for i, label in enumerate(labels)]
    (entry,) = entries_of(tmp_path, *results)
    assert entry["category_id"] == category


def test_an_empty_mask_is_a_result(tmp_path: Path) -> None:
    empty = make_result(0, (0, 1, 0.5, np.zeros((HEIGHT, WIDTH), np.bool_)))
    (entry,) = entries_of(tmp_path, empty)
    assert decode(entry["segmentations"][0]).sum() == 0


def test_no_tracks_is_an_empty_list(tmp_path: Path) -> None:
    assert entries_of(tmp_path, make_result(0)) == []
    assert entries_of(tmp_path) == []


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    (tmp_path / "f.jsonl").write_text("damaged\n")
    with pytest.raises(ResumeError, match="damaged"):
        write_results(tmp_path / "f.jsonl", tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == "old"
    (tmp_path / "r.json").unlink()
    (tmp_path / "r.json").mkdir()
    (tmp_path / "f.jsonl").write_text("")
    with pytest.raises(VideoError, match=r"r\.json cannot be written"):
        write_results(tmp_path / "f.jsonl", tmp_path / "r.json")
    assert {path.name for path in tmp_path.iterdir()} == {"f.jsonl", "r.json"}

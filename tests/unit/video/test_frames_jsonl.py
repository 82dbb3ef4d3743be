import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tests.unit.video.made_results import CLASSES, HEIGHT, WIDTH, blob, make_result
from vpp_deploy.errors import ResumeError, VideoError
from vpp_deploy.results import TokenMap
from vpp_deploy.video.frames_jsonl import (
    Extent,
    FramesJsonl,
    encode_masks,
    read_frames,
    tokens_of,
    tracks_of,
)

# pycocotools 2.0.11's decode() warns under NumPy 2. Remove when it knows the copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def decode(rle: Any) -> NDArray[np.bool_]:
    decoded: NDArray[np.bool_] = coco_mask.decode(rle).astype(bool)
    return decoded


def extent_of(text: bytes) -> Extent:
    return Extent(len(text), hashlib.sha256(text).hexdigest())


def test_encoded_masks_decode_to_themselves() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((5, 33, 47)) > 0.7
    masks[1], masks[2] = False, True
    rles = encode_masks(masks)
    assert all(type(rle["counts"]) is str and rle["size"] == (33, 47) for rle in rles)
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
    with FramesJsonl(path, CLASSES) as lines:
        lines.write(make_result(0, (3, 2, 0.87654321, mask), dropped=(1,), alive=(3, 0)))
        (line,) = path.read_text().splitlines()
        assert lines.extent == extent_of(path.read_bytes())
        lines.write(make_result(7))
        assert len(path.read_text().splitlines()) == 2
    first = json.loads(line)
    (track,) = first.pop("tracks")
    assert first == {
        "index": 0,
        "time_s": 0.0,
        "first": True,
        "reset": "start",
        "stage_ms": {"backbone": 1.235, "head": 2.0},
        "tracks_dropped": [1],
        "alive": [3, 0],
    }
    assert np.array_equal(decode(track.pop("rle")), mask)
    ys, xs = np.nonzero(mask)
    assert np.float32(track["score"]) == np.float32(0.87654321)
    assert len(str(track.pop("score"))) < 12
    assert track == {
        "id": 3,
        "label": 2,
        "class": "bird",
        "box": [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1],
        "area": mask.sum(),
    }
    second = json.loads(path.read_text().splitlines()[1])
    assert (second["index"], second["time_s"], second["tracks"]) == (7, 0.233333, [])
    assert (second["first"], second["reset"]) == (False, None)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    depth = np.arange(12, dtype=np.uint8).reshape(3, 4) % 5
    result = make_result(
        0,
        (3, 2, 0.87654321, blob(10, 10)),
        (5, 0, 1 / 3, np.zeros((HEIGHT, WIDTH), np.bool_)),
        tokens=TokenMap(depth, (40, 60)),
    )
    with FramesJsonl(tmp_path / "f", CLASSES) as lines:
        lines.write(result)
        lines.write(make_result(1))
    one, none = read_frames(tmp_path / "f")
    for name in ("ids", "labels", "scores", "boxes", "masks", "query_ids"):
        ours, theirs = getattr(tracks_of(one), name), getattr(result.tracks, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    tokens = tokens_of(one)
    assert tokens is not None
    assert np.array_equal(tokens.depth, depth)
    assert tokens.resized == (40, 60)
    assert len(tracks_of(none)) == 0
    assert tokens_of(none) is None


def test_a_line_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with FramesJsonl(path, CLASSES) as lines:
        lines.write(make_result(0, (0, 1, 0.5, blob(9, 9))))
        kept = lines.extent
        lines.write(make_result(1))
    path.write_bytes(path.read_bytes()[:-1])
    assert [line["index"] for line in read_frames(path)] == [0]
    with FramesJsonl(path, CLASSES, kept) as lines:
        lines.write(make_result(1))
        lines.write(make_result(2))
    assert [line["index"] for line in read_frames(path)] == [0, 1, 2]


@pytest.mark.parametrize("change", [lambda text: text[:-2], lambda text: b" " + text[1:]])
def test_going_on_from_other_lines(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """Edited, or cut off before where the run was."""
    path = tmp_path / "f"
    with FramesJsonl(path, CLASSES) as lines:
        lines.write(make_result(0))
        kept = lines.extent
    changed = change(path.read_bytes())
    path.write_bytes(changed)
    with pytest.raises(ResumeError, match="not as the run left it"):
        FramesJsonl(path, CLASSES, kept)
    assert path.read_bytes() == changed


def test_going_on_hashes_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with FramesJsonl(path, CLASSES) as lines:
        lines.write(make_result(0))
        kept = lines.extent
        lines.write(make_result(1))
    with FramesJsonl(path, CLASSES, kept) as lines:
        assert extent_of(path.read_bytes()) == kept
        lines.write(make_result(1))
        assert lines.extent == extent_of(path.read_bytes())


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"tracks": 3}', "\x00"])
def test_a_damaged_line(tmp_path: Path, text: str) -> None:
    with FramesJsonl(tmp_path / "f", CLASSES) as lines:
        lines.write(make_result(0))
    with (tmp_path / "f").open("a") as file:
        file.write(text + "\n")
    with pytest.raises(ResumeError, match="line 2 is damaged"):
        list(read_frames(tmp_path / "f"))


def test_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"cannot be written \(No such file"):
        FramesJsonl(tmp_path / "none" / "f", CLASSES)
    with pytest.raises(VideoError, match="cannot be written"):
        FramesJsonl(tmp_path, CLASSES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits the file size of a process of its own")
def test_a_line_without_space_is_taken_back(tmp_path: Path) -> None:
    """A limit of the file's size does as a full disk does: it writes what fits, then refuses."""
    import resource
    import signal

    path = tmp_path / "f"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            with FramesJsonl(path, CLASSES) as lines:
                lines.write(make_result(0, (0, 1, 0.5, blob(9, 9))))
                resource.setrlimit(resource.RLIMIT_FSIZE, (lines.extent.size + 50,) * 2)
                with pytest.raises(VideoError, match="File too large"):
                    lines.write(make_result(1, (0, 1, 0.5, blob(9, 9))))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [line["index"] for line in read_frames(path)] == [0]
    assert path.read_bytes().endswith(b"\n")

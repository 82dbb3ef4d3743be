"""The weights that come with the project, as a newcomer meets them: exported, run, evaluated."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tests.command_line import succeeds
from vpp_deploy import VideoSession
from vpp_deploy.evaluation.dataset import Dataset, LabelledVideo, read_dataset
from vpp_deploy.manifests import PATCH_SIZE

# pycocotools decodes this way under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

EXAMPLE = Path(__file__).parents[2] / "examples" / "emoji_vis"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the bundle that `make demo` exports (45 s)."""
    folder = tmp_path_factory.mktemp("shipped")
    arguments = (EXAMPLE / "emoji.safetensors", "--recipe", EXAMPLE / "emoji-55.toml")
    succeeds("export", *arguments, "--out", "demo", cwd=folder)
    return folder


def test_it_sees_what_is_there(folder: Path) -> None:
    printed = succeeds("eval", "demo", EXAMPLE / "test", "--json", cwd=folder).stdout
    figures = json.loads(printed)["figures"]
    assert figures["ap"] > 0.2
    assert figures["ap50"] > 0.4


def test_the_demo_follows_what_moves(folder: Path) -> None:
    options = ("--model", "demo", "--out", "clip", "--json")
    summary = json.loads(succeeds("run", EXAMPLE / "clip.mp4", *options, cwd=folder).stdout)
    assert summary["tracks_by_class"].keys() >= {"zebra", "bird", "rabbit"}


def test_pruning_follows_the_objects(folder: Path) -> None:
    """Seen there: 78 % of their patches run to the end, 13 % of those that show none."""
    dataset = read_dataset(EXAMPLE / "test")
    session = VideoSession.open(folder / "demo", tokens=True, scene_cuts=False)
    of_objects, of_others = [], []
    for video in dataset.videos:
        session.reset()
        shown = shares_of_patches(dataset, video)
        with video.open() as frames:
            for frame in frames:
                result = session.step(frame)
                assert result.tokens is not None
                if result.first:
                    continue
                share = shown[frame.index]
                to_the_end = result.tokens.depth[: len(share)] == 4
                of_objects.append(to_the_end[share > 0.3])
                of_others.append(to_the_end[share == 0])
    assert np.concatenate(of_objects).mean() > 0.7
    assert np.concatenate(of_others).mean() < 0.2


def shares_of_patches(dataset: Dataset, video: LabelledVideo) -> list[NDArray[np.float64]]:
    """Of each frame how much of every patch the objects fill; frames fit the input unresized."""
    height, width = video.size
    rows, columns = -(-height // PATCH_SIZE), width // PATCH_SIZE
    instances = [one.masks for one in dataset.instances if one.video_id == video.id]
    shares = []
    for rles in zip(*instances, strict=True):
        covered = np.zeros((rows * PATCH_SIZE, width), np.bool_)
        for rle in filter(None, rles):
            covered[:height] |= coco_mask.decode(rle).astype(np.bool_)
        shares.append(covered.reshape(rows, PATCH_SIZE, columns, PATCH_SIZE).mean((1, 3)))
    return shares

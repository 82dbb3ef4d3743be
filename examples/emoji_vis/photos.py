"""The photographs behind the emoji, each in one split alone, with author and licence."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError

Split = Literal["train", "val", "test"]

_LONG_SIDE = 960
"""Larger photographs are reduced to it: a frame shows a part of one."""

_LOMIRI = Path("/usr/share/backgrounds")


@dataclass(frozen=True)
class Photo:
    """One photograph.

    Attributes:
        package: "skimage" or "sklearn" (their wheels), or the Debian package.
        name: path inside the package's folder of pictures.
        split: where it is used.
        credit: author and licence.
    """

    package: str
    name: str
    split: Split
    credit: str


_SKIMAGE: tuple[tuple[str, Split, str], ...] = (
    ("coffee.png", "test", "Rachel Michetti, CC0"),
    ("rocket.jpg", "test", "SpaceX, public domain"),
    ("astronaut.png", "test", "NASA, public domain"),
    ("grass.png", "val", "linolafett, CC0"),
    ("retina.jpg", "val", "Mikael Häggström, CC0"),
    ("brick.png", "train", "CC0Textures, CC0"),
    ("gravel.png", "train", "CC0Textures, CC0"),
    ("hubble_deep_field.jpg", "train", "NASA, public domain"),
    ("ihc.png", "train", "no known copyright restrictions"),
    ("camera.png", "train", "Lav Varshney, CC0"),
)
_SKLEARN: tuple[tuple[str, Split, str], ...] = (
    ("china.jpg", "val", "danielbuechele, CC BY 2.0"),
    ("flower.jpg", "val", "vultilion, CC BY 2.0"),
)
_LOMIRI_1604: tuple[tuple[str, str], ...] = (
    ("aitzgorri_by_Aitzol_Berasategi.jpg", "CC BY 4.0"),
    ("Bridge_by_Sander_Klootwijk.jpg", "CC BY-SA 4.0"),
    ("Dragonfly_by_Bolly.jpg", "CC BY-SA 4.0"),
    ("free_by_Peter_Nerlich.jpg", "CC BY-SA 4.0"),
    ("greentock_by_Peter_Nerlich.jpg", "CC BY-SA 4.0"),
    ("life_by_Aitzol_Berasategi.jpg", "CC BY 4.0"),
    ("picosdeeuropa_by_Aitzol_Berasategi.jpg", "CC BY 4.0"),
    ("Picture_0B_by_freespace.jpg", "CC BY 4.0"),
    ("Picture_1A_by_freespace.jpg", "CC BY 4.0"),
    ("seeding_by_Clements_Engelhardt.jpg", "CC0"),
    ("sunset_by_Aitzol_Berasategi.jpg", "CC BY 4.0"),
    ("umang_by_Abhishek_Mudgal.jpg", "CC BY 4.0"),
    ("Wine_by_Jakkub_Mede.jpg", "CC BY 4.0"),
)


def _lomiri_credit(name: str, licence: str) -> str:
    author = name.removesuffix(".jpg").partition("_by_")[2].replace("_", " ")
    return f"{author}, {licence}"


PHOTOS = (
    *(Photo("skimage", *row) for row in _SKIMAGE),
    *(Photo("sklearn", *row) for row in _SKLEARN),
    *(
        Photo("lomiri-wallpapers-16.04", name, "train", _lomiri_credit(name, licence))
        for name, licence in _LOMIRI_1604
    ),
)


@cache
def photographs(split: Split) -> tuple[NDArray[np.uint8], ...]:
    """The photographs of a split, (height, width, 3) RGB.

    Raises:
        VideoError: one is missing.
    """
    return tuple(_read(photo) for photo in PHOTOS if photo.split == split)


def _read(photo: Photo) -> NDArray[np.uint8]:
    path = _folder(photo.package) / photo.name
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise VideoError(f"{path} cannot be read; install {photo.package}, see README.md")
    scale = _LONG_SIDE / max(bgr.shape[:2])
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(bgr[..., ::-1], np.uint8)


def _folder(package: str) -> Path:
    if package.startswith("lomiri"):
        return _LOMIRI
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise VideoError(f"the Python package {package} is missing; see README.md")
    inside = {"skimage": "data", "sklearn": "datasets/images"}[package]
    return Path(spec.origin).parent / inside

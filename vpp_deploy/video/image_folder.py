"""Frames from a folder of images, in the natural order of their names."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError
from vpp_deploy.video.frames import Frame, VideoSource

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder(VideoSource):
    """The images of one folder (not of folders in it); hidden files and other files are ignored.

    EXIF orientation is honoured. Images that do not decode are skipped and counted, and keep their
    index.

    Raises:
        VideoError: the folder has no image, or none that can be read.
    """

    def __init__(self, path: Path, selected: range) -> None:
        super().__init__(path, selected)
        try:
            self._paths = image_files(path)
        except OSError as error:
            raise VideoError(
                f"{path} cannot be listed ({error.strerror}); check its permissions"
            ) from error
        readable = (image for image in map(_readable, self._paths) if image is not None)
        first = next(readable, None)
        if first is None:
            raise VideoError(
                f"{path} has no readable image among {len(self._paths)} image files; expected "
                f"files ending in {', '.join(sorted(SUFFIXES))}"
            )
        self.frame_size = (first.shape[0], first.shape[1])
        self.fps = None
        self.num_frames = len(self._indices())

    def _release(self) -> None:
        """Nothing is held open between two images."""

    def _indices(self) -> range:
        return range(len(self._paths))[
            self._selected.start : self._selected.stop : self._selected.step
        ]

    def _label(self, index: int) -> str:
        return f"image {index} ({self._paths[index].name})"

    def _read(self) -> Iterator[Frame]:
        self._num_seen = len(self._paths)
        for index in self._indices():
            rgb = _readable(self._paths[index])
            if rgb is None:
                self.frames_skipped_corrupt += 1
            else:
                yield Frame(index, None, rgb)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, in their order.

    Raises:
        OSError: it cannot be listed.
    """
    images = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted((path for path in images if not path.name.startswith(".")), key=natural_key)


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sort key that puts img_2 before img_10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def read_rgb(path: Path) -> NDArray[np.uint8] | None:
    """One image as (H, W, 3) uint8, upright; None if it is none, or a damaged one.

    Raises:
        OSError: the file cannot be read.
    """
    # Not cv2.imread: it knows only the system's code page on Windows.
    encoded = np.fromfile(path, np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or one that claims more pixels than OpenCV takes
        return None
    return (
        None
        if image is None
        else cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    )


def _readable(path: Path) -> NDArray[np.uint8] | None:
    try:
        return read_rgb(path)
    except OSError:
        return None

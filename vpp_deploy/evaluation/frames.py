"""The images of a labelled video as a source of frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import DatasetError
from vpp_deploy.video.frames import Frame, VideoSource
from vpp_deploy.video.image_folder import read_rgb


class ListedFrames(VideoSource):
    """The frames of one video, every one as the labels say."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int]) -> None:
        """Takes the images in order, one or more, and their (H, W) in pixels.

        Reading raises:
            DatasetError: an image cannot be read, is damaged or of another size.
        """
        super().__init__(files[0].parent, range(len(files)))
        self._files = tuple(files)
        self.frame_size = size
        self.fps = None
        self.num_frames = len(files)

    def _release(self) -> None:
        """Nothing is held open between two images."""

    def _read(self) -> Iterator[Frame]:
        self._num_seen = len(self._files)
        for index, file in enumerate(self._files):
            yield Frame(index, None, _labelled(file, self.frame_size))


def _labelled(file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8. An image that is skipped would shift all that is labelled after it."""
    try:
        rgb = read_rgb(file)
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    if rgb is None:
        raise DatasetError(f"{file} is no image, or a damaged one")
    if rgb.shape[:2] != size:
        raise DatasetError(
            f"{file} is {rgb.shape[1]}x{rgb.shape[0]}, and its labels are for {size[1]}x{size[0]}"
        )
    return rgb

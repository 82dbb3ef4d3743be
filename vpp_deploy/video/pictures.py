"""The videos that show a run: its tracks, and the tokens that ran."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.results import TokenMap, Tracks
from vpp_deploy.video.closing import Closing
from vpp_deploy.video.draw import draw_tracks
from vpp_deploy.video.draw_tokens import draw_tokens
from vpp_deploy.video.writer import VideoWriter

ANNOTATED, TOKENS = "annotated", "tokens"


class Pictures(Closing):
    """Writes annotated.mp4, and tokens.mp4: the same with the token map beside it.

    Where the frame size changes, a new file begins: annotated-2.mp4.

    Raises:
        VideoError: a file cannot be written.
    """

    def __init__(self, folder: Path, fps: float, classes: Sequence[str], names: Sequence[str]):
        """Opens nothing before the first frame; `names` are of `ANNOTATED` and `TOKENS`."""
        self._folder = folder
        self._fps = fps
        self._classes = classes
        self._names = tuple(names)
        self._writers: dict[str, VideoWriter] = {}
        self._opened = ExitStack()
        self._frame_size: tuple[int, int] | None = None
        self._part = 0

    def write(self, rgb: NDArray[np.uint8], tracks: Tracks, tokens: TokenMap | None) -> None:
        """Appends one frame, (H, W, 3) uint8, to each video; TOKENS needs `tokens`."""
        if not self._names:
            return
        frame_size = (rgb.shape[0], rgb.shape[1])
        if frame_size != self._frame_size:
            self._begin(frame_size)
        drawn = draw_tracks(rgb, tracks, self._classes)
        if ANNOTATED in self._names:
            self._writers[ANNOTATED].write(drawn)
        if TOKENS in self._names:
            assert tokens is not None
            both = np.concatenate([drawn, draw_tokens(rgb, tokens)], axis=1)
            self._writers[TOKENS].write(both)

    def close(self) -> None:
        """Completes the files; closing twice is allowed."""
        self._opened.close()

    def _begin(self, frame_size: tuple[int, int]) -> None:
        self.close()
        self._frame_size = frame_size
        self._part += 1
        height, width = frame_size
        for name in self._names:
            size = (height, 2 * width) if name == TOKENS else frame_size
            path = self._folder / (name + ("" if self._part == 1 else f"-{self._part}") + ".mp4")
            self._writers[name] = self._opened.enter_context(VideoWriter(path, self._fps, size))


def written_by(folder: Path, names: Sequence[str] = (ANNOTATED, TOKENS)) -> Iterator[Path]:
    """The files in `folder` that `Pictures` of these names may have written."""
    for name in names:
        yield folder / f"{name}.mp4"
        for path in folder.glob(f"{name}-*.mp4"):
            if re.fullmatch(rf"{name}-\d+\.mp4", path.name):
                yield path

"""Frames without end: a video that is looped, or a synthetic scene."""

import itertools
import math
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vpp_deploy.errors import printable
from vpp_deploy.video.source import Frame, open_source
from vpp_deploy.video.synthetic import moving_scene


@dataclass(frozen=True)
class FedFrame:
    """A frame with how it came.

    Attributes:
        frame: to be stepped.
        first: the video starts here; the temporal state of what came before means nothing.
        decode_ms: NaN where there was nothing to decode, or where opening the video did it.
    """

    frame: Frame
    first: bool
    decode_ms: float


class FrameFeed(Protocol):
    """Where a profile's frames come from."""

    description: str
    """For people to read."""

    frame_size: tuple[int, int]
    """(H, W) of its frames in pixels."""

    def frames(self) -> Generator[FedFrame]:
        """Frames without end, from the start of the video."""
        ...


class SyntheticFeed:
    """A moving scene that never starts again."""

    def __init__(self, frame_size: tuple[int, int]) -> None:
        self.frame_size = frame_size
        self.description = f"a synthetic moving scene of {frame_size[1]}x{frame_size[0]}"

    def frames(self) -> Generator[FedFrame]:
        """Always the same frames."""
        for frame in moving_scene(self.frame_size, sys.maxsize):
            yield FedFrame(frame, frame.index == 0, math.nan)


class VideoFeed:
    """A video file or a folder of images, over and over."""

    def __init__(self, path: Path) -> None:
        """Opens the video once, to see that it can be.

        Raises:
            VideoError: it cannot.
        """
        self._path = path
        with open_source(path) as source:
            self.frame_size = source.frame_size
        self.description = f"{printable(path.name)}, {self.frame_size[1]}x{self.frame_size[0]}"

    def frames(self) -> Generator[FedFrame]:
        """Decodes one frame after the other; the next start follows the last frame.

        Raises:
            VideoError: the video cannot be read.
        """
        while True:
            with open_source(self._path) as source:
                frames = iter(source)
                for number in itertools.count():
                    start = time.perf_counter()
                    frame = next(frames, None)
                    decode_ms = (time.perf_counter() - start) * 1e3
                    if frame is None:
                        break
                    # Opening a video decodes its first frame, to know its size.
                    yield FedFrame(frame, number == 0, decode_ms if number else math.nan)

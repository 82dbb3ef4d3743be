"""Both bilinear resizes of a mask as one banded linear map, in blocks (MODEL.md 4).

Mask logits at 1/4 go to the padded input's size, are cropped to the resized frame, and go to the
original frame's size. Each axis of that is one linear map whose every output leans on at most four
inputs, close together: a block of outputs is a small dense matrix times a short run of inputs. One
stacked product does all blocks, writes each output once, and can begin and end at any of them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """The map of one axis, or of consecutive blocks of it: n blocks of `size` outputs.

    Attributes:
        start: the first output, on the original frame's axis.
        inputs: (n, k) int64, the consecutive inputs of each block, on the axis of the logits.
        weights: (n, size, k) float32; a row sums to 1, or to 0 beyond the end of the frame.
    """

    start: int
    inputs: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def size(self) -> int:
        """Outputs of one block."""
        return int(self.weights.shape[1])

    def __getitem__(self, blocks: slice) -> "Axis":
        """Only these consecutive blocks."""
        first = blocks.indices(len(self))[0]
        start = self.start + first * self.size
        return Axis(start, self.inputs[blocks], self.weights[blocks])

    def around(self, first: int, last: int) -> "Axis":
        """The blocks with an input from `first` up to and without `last`.

        An interpolated value is positive only next to a positive one: if all positive inputs are
        among these, then all positive outputs are among these blocks'.
        """
        found = np.flatnonzero((self.inputs[:, 0] < last) & (self.inputs[:, -1] >= first))
        return self[found[0] : found[-1] + 1] if first < last and len(found) else self[:0]


@lru_cache(maxsize=128)
def plan_axis(low: int, padded: int, resized: int, frame: int, size: int) -> Axis:
    """The map of a whole axis.

    Args:
        low: size of the logits' axis.
        padded: size of the padded input.
        resized: size of the resized frame within it, from its start.
        frame: size of the original frame.
        size: outputs in a block.
    """
    inner, inner_weights = _linear(low, padded)
    outer, outer_weights = _linear(resized, frame)
    taps = inner[outer].reshape(frame, 4)
    shares = (outer_weights[..., None] * inner_weights[outer]).reshape(frame, 4)

    starts = np.arange(0, frame, size)
    firsts = np.minimum.reduceat(taps.min(axis=1), starts)
    lasts = np.maximum.reduceat(taps.max(axis=1), starts)
    num_inputs = int((lasts - firsts).max()) + 1
    inputs = np.minimum(firsts, low - num_inputs)[:, None] + np.arange(num_inputs)

    weights = np.zeros((len(starts), size, num_inputs))
    block, row = np.divmod(np.arange(frame), size)
    places = block[:, None], row[:, None], taps - inputs[block, :1]
    np.add.at(weights, places, shares)
    return Axis(0, inputs, weights.astype(np.float32))


def resize_matrix(low: int, padded: int, resized: int, frame: int) -> NDArray[np.float32]:
    """The map of a whole axis as one matrix, (frame, low); arguments as in `plan_axis`."""
    axis = plan_axis(low, padded, resized, frame, frame)
    matrix = np.zeros((frame, low), np.float32)
    matrix[:, axis.inputs[0]] = axis.weights[0]
    return matrix


def _linear(num_in: int, num_out: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bilinear, align_corners=False, no antialiasing: (num_out, 2) inputs and their weights."""
    place = np.maximum((np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5, 0)
    before = np.minimum(place.astype(np.int64), num_in - 1)
    after = np.minimum(before + 1, num_in - 1)
    share = place - before
    return np.stack([before, after], 1), np.stack([1 - share, share], 1)


def enlarge(values: NDArray[np.float32], rows: Axis, cols: Axis) -> NDArray[np.float32]:
    """The outputs of these blocks.

    Args:
        values: (h, w), whole.
        rows: map of the vertical axis, at least one block.
        cols: map of the horizontal axis, at least one block.

    Returns:
        (outputs of `rows`, outputs of `cols`).
    """
    low, high = rows.inputs[0, 0], rows.inputs[-1, -1] + 1
    runs = np.take(values[low:high], cols.inputs, axis=1).swapaxes(0, 1)
    wide = np.empty((high - low, len(cols), cols.size), np.float32)
    np.matmul(runs, cols.weights.swapaxes(1, 2), out=wide.swapaxes(0, 1))
    runs = np.take(wide.reshape(high - low, -1), rows.inputs - low, axis=0)
    outputs: NDArray[np.float32] = rows.weights @ runs
    return outputs.reshape(-1, len(cols) * cols.size)

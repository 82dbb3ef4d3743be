"""Letting background patches in, so that what enters late is seen: what is added to Map-SM's ranks.

Map-SM gives every patch the score of its best match in the previous frame (MODEL.md 2.3). What
appears where nothing was, matches background and may never be looked at.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.specs import PipelineSpec

_NOISE_SCALE = 0.1  # the published selectors divide their Gumbel noise by a temperature of 10

_FIRST = 1e4
"""Above any difference of two logits."""

_LONGEST = 1000

NONE = "none"
FORMS = f"{NONE}, noise[:SEED] or lattice[:PERIOD]"


@dataclass(frozen=True)
class RankNoise:
    """The published code's noise on Map-SM's ranks, from a seed; the other selectors have none.

    Every video draws the same from its first frame on.

    Attributes:
        seed: 0 or more.

    Raises:
        ValueError: it is less.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"a seed of {self.seed}; expected 0 or more")

    def __str__(self) -> str:
        return f"noise:{self.seed}"

    def bias(self, frame: int, grid: tuple[int, int], seen: tuple[int, int]) -> NDArray[np.float32]:
        """What is added to the scores, (N,) float32; arguments as of `Lattice.bias`.

        The difference of two Gumbel variables, one for each of a token's logits, is logistic.
        """
        rng = np.random.default_rng((self.seed, frame))
        return rng.logistic(0.0, _NOISE_SCALE, grid[0] * grid[1]).astype(np.float32)


@dataclass(frozen=True)
class Lattice:
    """Every patch of the frame runs in blocks 1-2 once in `period` frames, whatever its score.

    In each frame one patch in `period` is put first, on a lattice that moves from frame to frame.

    Attributes:
        period: frames, 2 to 1000. The lattice takes 1/period of the patches, out of the budget of
            blocks 1-2, which must have room for them.

    Raises:
        ValueError: there is no such period.
    """

    period: int = 16

    def __post_init__(self) -> None:
        if not 2 <= self.period <= _LONGEST:
            raise ValueError(f"a period of {self.period} frames; expected 2 to {_LONGEST}")

    def __str__(self) -> str:
        return f"lattice:{self.period}"

    def bias(self, frame: int, grid: tuple[int, int], seen: tuple[int, int]) -> NDArray[np.float32]:
        """What is added to the scores, (N,) float32.

        Args:
            frame: number since the start of the video.
            grid: (h, w) patches of the input, N = h * w.
            seen: (rows, columns) that the frame covers; what lies outside is padding.
        """
        y, x = np.mgrid[: grid[0], : grid[1]]
        turn = self._residues(grid) == frame * self._step % self.period
        turn &= (y < seen[0]) & (x < seen[1])
        return np.where(turn, np.float32(_FIRST), np.float32(0)).ravel()

    def most(self, grid: tuple[int, int]) -> int:
        """Patches that a frame of (h, w) of them puts first, at most: not all frames take alike."""
        return int(np.bincount(self._residues(grid).ravel()).max())

    def _residues(self, grid: tuple[int, int]) -> NDArray[np.int64]:
        y, x = np.mgrid[: grid[0], : grid[1]]
        residues: NDArray[np.int64] = (x + self._step * y) % self.period
        return residues

    @property
    def _step(self) -> int:
        """Prime to the period and near its golden section.

        So turns that follow each other lie far apart, in space as in time.
        """
        golden = 0.382 * self.period
        steps = [s for s in range(1, self.period) if math.gcd(s, self.period) == 1]
        return min(steps, key=lambda s: abs(s - golden))


Exploration = RankNoise | Lattice

_POLICIES: dict[str, type[Exploration]] = {"noise": RankNoise, "lattice": Lattice}


def suited_exploration(spec: PipelineSpec) -> Exploration | None:
    """What a model is run with unless another policy is asked for.

    Noise, which found most of what enters late (benchmarks/README.md has the figures); None for a
    dense model, and for the published rule, which is run as the reference.
    """
    start = spec.cold_start
    return None if start is None or spec.tensor(start.keep).shape[1] == -1 else RankNoise()


def parse_exploration(text: str) -> Exploration | None:
    """`none`, `noise`, `noise:SEED`, `lattice` or `lattice:PERIOD`.

    Raises:
        ValueError: it is none of these.
    """
    name, colon, number = text.partition(":")
    if text == NONE:
        return None
    policy = _POLICIES.get(name)
    try:
        if policy is not None and not colon:
            return policy()
        if policy is not None and number.isascii() and number.isdigit() and len(number) <= 9:
            return policy(int(number))
    except ValueError:
        pass
    raise ValueError(
        f"exploration {text!r}; expected {FORMS}, with a period of 2 to {_LONGEST} frames"
    )

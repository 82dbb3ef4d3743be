"""What a comparison with the PyTorch model saw, and how far a precision may be off."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import ExportError


@dataclass(frozen=True)
class Tolerance:
    """Bounds of a comparison, values as shares of their spread (standard deviation).

    Attributes:
        largest: of any single value; None sets no such bound.
        rms: root mean square over all values.
        tokens: smallest share of equal tokens.
    """

    largest: float | None
    rms: float
    tokens: float


TOLERANCES = {
    "fp32": Tolerance(largest=1e-4, rms=1e-4, tokens=0.99),
    # Eight bits of a range leave about 1 % of noise behind each layer, 5 % in the masks; what a
    # broken graph gives is as far off as its values spread, and picks its tokens at random.
    "int8": Tolerance(largest=None, rms=0.2, tokens=0.85),
    # 11 bits of a significand leave 0.1 % behind the backbone and 0.5 % in the masks.
    "fp16": Tolerance(largest=None, rms=0.02, tokens=0.9),
    # With 8 bits, eight times as much.
    "bf16": Tolerance(largest=None, rms=0.15, tokens=0.75),
}
"""By the precision of a bundle."""


@dataclass
class OutputDifference:
    """Differences of one output over all frames. `spread` is its standard deviation."""

    largest: float = 0.0
    spread: float = 0.0
    _squares: float = 0.0
    _count: int = 0

    @property
    def ratio(self) -> float:
        """Largest difference as a share of the spread."""
        return self.largest / self.spread if self.spread else self.largest

    @property
    def rms_ratio(self) -> float:
        """Root mean square of the differences as a share of the spread."""
        rms = math.sqrt(self._squares / self._count) if self._count else 0.0
        return rms / self.spread if self.spread else rms

    def add(self, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Takes one frame into account. A NaN on either side counts as infinitely far."""
        difference = np.nan_to_num(np.abs(got - expected), nan=np.inf)
        self.largest = max(self.largest, float(difference.max(initial=0.0)))
        self._squares += float(np.square(difference, dtype=np.float64).sum())
        self._count += difference.size
        self.spread = max(self.spread, float(expected.std()))


@dataclass
class ParityReport:
    """What a comparison saw.

    Attributes:
        precision: a key of `TOLERANCES`.
        frames: number compared.
        outputs: by name.
        equal_tokens: selector to the smallest share, over frames, of tokens that both chose.
        gaps: what the comparison did not reach, though it should have.
        runner: what was compared with the model, for people to read.
    """

    precision: str = "fp32"
    frames: int = 0
    gaps: list[str] = field(default_factory=list)
    outputs: dict[str, OutputDifference] = field(default_factory=dict)
    equal_tokens: dict[str, float] = field(default_factory=dict)
    runner: str = "ONNX Runtime"

    def failures(self) -> list[str]:
        """What is outside the tolerance, a clause each."""
        tolerance = TOLERANCES[self.precision]
        found = list(self.gaps)
        for name, d in self.outputs.items():
            if tolerance.largest is not None and not d.ratio <= tolerance.largest:
                found.append(
                    f"{name} differs by {d.largest:.2e}, {d.ratio:.1e} of its spread "
                    f"(at most {tolerance.largest:.0e})"
                )
            elif not d.rms_ratio <= tolerance.rms:
                found.append(
                    f"{name} differs by {d.rms_ratio:.1e} of its spread in the mean square "
                    f"(at most {tolerance.rms:.0e})"
                )
        for name, share in self.equal_tokens.items():
            if share < tolerance.tokens:
                found.append(
                    f"{name} shares {share:.2%} of its tokens (at least {tolerance.tokens:.0%})"
                )
        return found

    def check(self) -> None:
        """Raises an `ExportError` that names everything outside the tolerance."""
        failures = self.failures()
        if failures:
            raise ExportError(
                f"verification over {self.frames} frames: "
                + "; ".join(failures)
                + "; use other settings, or look for what is wrong with --no-verify"
            )

    def summary(self) -> dict[str, object]:
        """The report as plain data, for a manifest."""
        outputs = self.outputs.items()
        return {
            "runner": self.runner,
            "frames": self.frames,
            "largest_difference": {n: float(f"{d.largest:.3e}") for n, d in outputs},
            "share_of_spread": {n: float(f"{d.ratio:.3e}") for n, d in outputs},
            "rms_share_of_spread": {n: float(f"{d.rms_ratio:.3e}") for n, d in outputs},
            "equal_tokens": {n: round(s, 6) for n, s in self.equal_tokens.items()},
        }

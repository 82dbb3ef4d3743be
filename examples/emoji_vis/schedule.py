"""The order of training: single frames, clips, then clips with token selection."""

import math
from dataclasses import dataclass

from examples.emoji_vis.gates import Shares

WANTED = Shares(0.7, 0.56, 0.448, 0.358)
"""What the published models that keep about 52 % are trained towards (MODEL.md 2.4)."""

VARIATION = (0.55, 1.35)
"""In training all of them are scaled alike, at random, so that other budgets work as well."""


@dataclass(frozen=True)
class Phase:
    """Some steps of a kind.

    Attributes:
        name: for people.
        steps: how many.
        clips, frames: of a batch.
        pruned: whether tokens are selected, by selectors that learn; if so, BatchNorm's
            statistics stay as they are.
        rate, last_rate: learning rate after the warm-up and at the end, a cosine in between.
        warmup: steps in which it rises.
    """

    name: str
    steps: int
    clips: int
    frames: int
    pruned: bool
    rate: float
    last_rate: float
    warmup: int

    def rate_at(self, step: int) -> float:
        """The learning rate at a step of this phase."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.last_rate + (self.rate - self.last_rate) * (1 + math.cos(math.pi * done)) / 2


PHASES = (
    Phase("stills", 3000, 4, 1, False, 4e-4, 2.5e-4, 500),
    Phase("clips", 2500, 2, 2, False, 2.5e-4, 2e-5, 100),
    Phase("sparse", 1500, 2, 3, True, 1e-4, 5e-6, 200),
)

NUM_STEPS = sum(phase.steps for phase in PHASES)


def phase_at(step: int) -> tuple[Phase, int]:
    """The phase of a step of the whole training, and the step within it."""
    for phase in PHASES:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError("the training is over")

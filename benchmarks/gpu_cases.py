"""Which models a run of the GPU benchmark is of."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cpu import DENSE


@dataclass(frozen=True)
class Case:
    """A model that rows have in common.

    Attributes:
        shape: "small" or "tiny"; the name of a checkpoint of one's own.
        kind: "52" or "40" percent of the patches, or "dense"; empty: as that checkpoint is.
        batch: streams that are stepped together.
    """

    shape: str
    kind: str
    batch: int

    @property
    def name(self) -> str:
        """For people to read."""
        if not self.kind:
            return f"{self.shape}, batch {self.batch}"
        share = self.kind if self.kind == DENSE else f"~{self.kind} %"
        return f"{self.shape.capitalize()} {share}, batch {self.batch}"

    @property
    def model(self) -> str:
        """Its recipe's name, the same for every batch."""
        if not self.kind:
            return self.shape
        return f"{DENSE}-{self.shape}" if self.kind == DENSE else f"{self.shape}-{self.kind}"

    @property
    def single(self) -> "Case":
        """The same model with one stream."""
        return dataclasses.replace(self, batch=1)


@dataclass(frozen=True)
class Own:
    """A checkpoint of one's own, with its recipe."""

    checkpoint: Path
    recipe: Path


def cases_of(models: str, kinds: str, batches: str) -> tuple[Case, ...]:
    """Every combination, the most important one first; arguments as on the command line."""
    return tuple(
        Case(shape, kind, int(batch))
        for batch in batches.split(",")
        for shape in models.split(",")
        for kind in kinds.split(",")
    )

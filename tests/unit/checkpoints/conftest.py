from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vpp_deploy.checkpoints.formula import (
    config_text,
    formula_config,
    formula_tensors,
    published_shapes,
)
from vpp_deploy.checkpoints.keys import canonical_key
from vpp_deploy.checkpoints.reader import Checkpoint
from vpp_deploy.models.config import YOUTUBE_VIS_2021

SHARED = Path(__file__).parents[4] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of facts beside the repository, which a checkout may lack."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(scope="session")
def tiny_tensors() -> dict[str, torch.Tensor]:
    """Canonical weights of formula Tiny."""
    tensors = formula_tensors(published_shapes(formula_config("tiny")))
    return {canonical_key(key): torch.from_numpy(value) for key, value in tensors.items()}


@pytest.fixture
def make_checkpoint(tiny_tensors: dict[str, torch.Tensor]) -> MakeCheckpoint:
    """Formula Tiny as a `Checkpoint`, with changes."""

    def make(
        changes: dict[str, torch.Tensor | None] | None = None,
        text: str | None = config_text(formula_config("tiny")),
        classes: tuple[str, ...] | None = YOUTUBE_VIS_2021,
    ) -> Checkpoint:
        changed = tiny_tensors | (changes or {})
        tensors = {key: value for key, value in changed.items() if value is not None}
        return Checkpoint(tensors, text, classes, Path("model.pth"), "0" * 64)

    return make

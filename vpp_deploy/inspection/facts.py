"""What was found, as plain data."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from vpp_deploy.manifests import EngineBuild
from vpp_deploy.specs import TensorSpec


@dataclass(frozen=True)
class StageFacts:
    """A stage of a bundle or of engines.

    Attributes:
        name: of the stage.
        file: relative to the folder.
        bytes: of that file.
        parameters: numbers that the graph stores, weights and tables computed before; None where
            it cannot be read.
        macs: multiply-accumulates of a step in mid-video, all streams together.
        macs_first_frame: of a first frame; 0 if that skips the stage.
        inputs, outputs: in the order of its signature; a size of -1 varies.
    """

    name: str
    file: str
    bytes: int
    parameters: int | None
    macs: int
    macs_first_frame: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ModelFacts:
    """A bundle, or engines; fields that are not listed here as `Manifest` has them.

    Attributes:
        path: as it was given.
        bytes: of all files but the manifest.
        written: time of the manifest's last change, UTC, ISO 8601.
        num_tokens: N, patch tokens of a frame.
        budget_shares: `budgets` of `num_tokens`.
        notes: what is not known, and why.
    """

    kind: Literal["bundle", "engine"]
    path: str
    name: str
    bytes: int
    written: str
    input_size: tuple[int, int]
    batch: int
    num_tokens: int
    budgets: tuple[int, ...]
    budget_shares: tuple[float, ...]
    track_slots: int
    num_queries: int
    classes: tuple[str, ...]
    precision: str
    target: str
    stages: tuple[StageFacts, ...]
    model: dict[str, Any]
    checkpoint: str
    checkpoint_sha256: str
    versions: dict[str, str]
    verification: dict[str, Any] | None
    engine: EngineBuild | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint file.

    Attributes:
        path: as it was given.
        format: of the file.
        bytes: of the file, with what else it holds.
        sha256: of the file.
        holds: what is in it beside the weights.
        num_tensors: entries of its state dict.
        dtypes: numeric type to how many numbers are stored in it.
        parameters: numbers that inference uses.
        modules: module to its share of those.
        size: "Tiny" or "Small", by the ViT's width; None: another one, or no ViT-Adapter.
        width: of the ViT; None: no ViT-Adapter.
        pruned: whether it has selectors; None: no ViT-Adapter.
        keep_ratio: that Map-SM was trained with; None: dense, or it does not say.
        classes: names, without background; None: it does not say.
        training: what it says of its training, beside the config.
        recipe: that fits, or that was given; None: none was found.
        model: sizes of the model, as `ModelConfig` names them; None: not known without more.
        budgets: tokens that the recipe lets run in blocks 1-2, 3-5, 6-8, 9-11; None: dense, or no
            export.
        missing: why it cannot be exported as it is, and what to do; None: it can.
    """

    kind: Literal["checkpoint"]
    path: str
    format: Literal["torch", "safetensors"]
    bytes: int
    sha256: str
    holds: tuple[str, ...]
    num_tensors: int
    dtypes: dict[str, int]
    parameters: int
    modules: dict[str, int]
    size: str | None
    width: int | None
    pruned: bool | None
    keep_ratio: float | None
    classes: tuple[str, ...] | None
    training: dict[str, str | int | float | bool]
    recipe: str | None
    model: dict[str, Any] | None
    budgets: tuple[int, ...] | None
    missing: str | None


@dataclass(frozen=True)
class RecipeFacts:
    """A recipe file, for exports or for engines.

    Attributes:
        path: as it was given.
        values: what it sets, and the defaults for what it does not.
        num_tokens: N, patch tokens of a frame; None: of engines, or not known.
        budgets: tokens that run in blocks 1-2, 3-5, 6-8, 9-11; None: of engines, dense, or not
            known without the checkpoint's keep ratio.
    """

    kind: Literal["recipe", "engine recipe"]
    path: str
    values: dict[str, Any]
    num_tokens: int | None
    budgets: tuple[int, ...] | None


Facts = ModelFacts | CheckpointFacts | RecipeFacts


def to_json(facts: Facts) -> str:
    """One JSON object; null for numbers that JSON has not."""
    document = json.dumps(dataclasses.asdict(facts))
    finite = json.loads(document, parse_constant=lambda _: None)
    return json.dumps(finite, indent=1, allow_nan=False)

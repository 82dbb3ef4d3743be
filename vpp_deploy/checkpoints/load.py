"""From a checkpoint and a recipe's settings to a model that is ready to run."""

import math
from pathlib import Path

import torch

from vpp_deploy.checkpoints.keys import check_keys, is_unused
from vpp_deploy.checkpoints.reader import Checkpoint, read_checkpoint
from vpp_deploy.checkpoints.settings import infer_config
from vpp_deploy.errors import CheckpointError
from vpp_deploy.models.deformable import Sampler, sample_grid
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.recipes import ModelSettings


def load_model(path: str | Path, settings: ModelSettings) -> tuple[VppModel, Checkpoint]:
    """Read a checkpoint and build its model: evaluation mode, no gradients, on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit or are not finite.
        RecipeError: a setting is missing, or contradicts the checkpoint.
    """
    checkpoint = read_checkpoint(path)
    return build_model(checkpoint, settings), checkpoint


def build_model(
    checkpoint: Checkpoint, settings: ModelSettings, sampler: Sampler = sample_grid
) -> VppModel:
    """As `load_model`, from a checkpoint that was read before (to choose a recipe by it).

    `sampler` is how the model's deformable attention samples.
    """
    config = infer_config(checkpoint, settings)
    # Without memory until the shapes are known to fit: a crafted file could describe any size.
    with torch.device("meta"):
        model = VppModel(config, sampler)
    own = model.state_dict()
    try:
        check_keys(checkpoint.tensors, {key: tuple(tensor.shape) for key, tensor in own.items()})
        _check_values(checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    weights = {}
    for key, empty in own.items():
        # Only BatchNorm's counters, which inference never uses, may be missing.
        stored = checkpoint.tensors.get(key, torch.zeros(empty.shape, dtype=empty.dtype))
        weights[key] = stored.to(empty.dtype).contiguous()
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _check_values(tensors: dict[str, torch.Tensor]) -> None:
    for key, tensor in tensors.items():
        if is_unused(key):
            continue
        if not tensor.is_floating_point():
            raise CheckpointError(f"{key} is {tensor.dtype}; expected floating-point weights")
        # A sum in double precision is finite exactly where all the float32 terms are.
        if not math.isfinite(tensor.to(torch.float32).sum(dtype=torch.float64).item()):
            raise CheckpointError(
                f"{key} has NaN or infinite values; expected finite weights, so use a checkpoint "
                "from before the training diverged"
            )
        if key.endswith("running_var") and bool((tensor < 0).any()):
            raise CheckpointError(f"{key} has negative variances; expected 0 or more")

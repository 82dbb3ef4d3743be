"""A training under way: weights, their running mean, optimiser; saved and read back whole."""

import copy
import os
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.emoji_vis.clips import make_batch
from examples.emoji_vis.gates import NOISE
from examples.emoji_vis.network import is_selector, new_model
from examples.emoji_vis.schedule import NUM_STEPS, VARIATION, WANTED, phase_at
from examples.emoji_vis.unroll import Pruning, run_clips
from vpp_deploy.errors import CheckpointError
from vpp_deploy.files import written_aside
from vpp_deploy.models.vpp import VppModel

_WEIGHT_DECAY = 0.05
_MAX_GRADIENT = 5.0
_MEAN_DECAY = 0.998
_STATISTICS_MOMENTUM = 0.01
"""Batches are small: BatchNorm's running statistics have to remember many of them."""

_SELECTOR_RATE = 4.0
"""The selectors start from nothing when all else is nearly done."""

_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError),
    *(OverflowError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)


@dataclass
class Learner:
    """All that a step changes.

    Attributes:
        seed: with the number of a step it decides on everything random in that step.
        step: the next one.
        model: being trained.
        mean: the running mean of its weights, which is what is kept of it.
        optimizer: AdamW.
    """

    seed: int
    step: int
    model: VppModel
    mean: VppModel
    optimizer: torch.optim.Optimizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.backbone.pos_embed.device

    def advance(self) -> dict[str, float]:
        """One step. Returns the losses, the gradient's norm and the learning rate."""
        phase, within = phase_at(self.step)
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _STATISTICS_MOMENTUM
                module.train(not phase.pruned)
        rate = phase.rate_at(within)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        rng = np.random.default_rng((self.seed, self.step, 0))
        torch.manual_seed(int(rng.integers(2**62)))
        pruning = None
        if phase.pruned:
            pruning = Pruning(WANTED.scaled(rng.uniform(*VARIATION)), WANTED, NOISE)
        batch = make_batch((self.seed, self.step), "train", phase.clips, phase.frames)
        losses = run_clips(self.model, batch.to(self.device), pruning, rng).losses
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), _MAX_GRADIENT, error_if_nonfinite=True
        )
        self.optimizer.step()
        self._average()
        self.step += 1
        values = {name: loss.item() for name, loss in losses.items()}
        return {"loss": total.item(), **values, "gradient": norm.item(), "rate": rate}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(_MEAN_DECAY, (1 + self.step) / (10 + self.step))
        means: list[Tensor] = list(self.mean.parameters())
        news: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(means, news, 1 - decay)
        for mean, new in zip(self.mean.buffers(), self.model.buffers(), strict=True):
            mean.copy_(new)

    def save(self, path: Path) -> None:
        """Writes everything; an interruption leaves the file that was there.

        Raises:
            CheckpointError: it cannot be written.
        """
        state = {
            "seed": self.seed,
            "step": self.step,
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        try:
            with written_aside(path) as aside, aside.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # what torch makes of a full disk
            raise CheckpointError(
                f"{path} cannot be written ({error}); make space, and go on with --resume"
            ) from error


def start(seed: int, device: torch.device) -> Learner:
    """A training before its first step."""
    model = new_model(seed).to(device)
    return Learner(seed, 0, model, copy.deepcopy(model).requires_grad_(False), _optimizer(model))


def resume(path: Path, device: torch.device) -> Learner:
    """A training as `save` left it.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if (record := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{record} is not what was written")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        seed, step = state["seed"], state["step"]
        if type(seed) is not int or type(step) is not int or seed < 0 or step < 0:
            raise ValueError("a seed or a step that is no whole number from 0")
        if step > NUM_STEPS:
            raise ValueError("a step after the last")
        learner = start(seed, device)
        learner.step = step
        learner.model.load_state_dict(state["model"])
        learner.mean.load_state_dict(state["mean"])
        learner.optimizer.load_state_dict(state["optimizer"])
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is damaged, or not of this training ({type(error).__name__}); remove it to "
            "begin anew, or name another folder"
        ) from error
    return learner


def _optimizer(model: VppModel) -> torch.optim.Optimizer:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and "embed" not in name and "query_feat" not in name
        groups.setdefault((decays, is_selector(name)), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": _WEIGHT_DECAY if decays else 0.0,
                "factor": _SELECTOR_RATE if selects else 1.0,
            }
            for (decays, selects), parameters in groups.items()
        ],
        fused=True,
    )

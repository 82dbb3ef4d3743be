"""Checkpoints and bundles to measure with: made once, kept while what they were made from stays.

The published weights are not at hand, so these are made by formula. One thing decides on speed and
is not random: how many tokens a trained model's selectors keep. So their biases are shifted until
the threshold rule keeps, on average over a few frames of the video, the shares that the recipe
names, which are those that the published models were trained towards (MODEL.md 2.4).
"""

import dataclasses
import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

import vpp_deploy
from vpp_deploy.checkpoints.formula import (
    Size,
    config_text,
    formula_config,
    formula_tensors,
    published_shapes,
)
from vpp_deploy.checkpoints.load import load_model
from vpp_deploy.errors import ExportError, RecipeError
from vpp_deploy.manifests import hash_file
from vpp_deploy.models.backbone import Selection
from vpp_deploy.models.config import YOUTUBE_VIS_2021
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.video.resize import plan_for_input, resize_frame
from vpp_deploy.video.source import Frame, open_source

CALIBRATION_FRAMES = 4


def make_checkpoint(
    path: Path, size: Size, recipe: Path, video: Path, input_size: tuple[int, int]
) -> None:
    """Writes the formula's weights, with selectors that keep the recipe's shares.

    Args:
        path: the .safetensors file; left as it is if it was made from the same.
        size: of the model.
        recipe: one of `export/`.
        video: what the selectors are calibrated on.
        input_size: (H, W) of the padded input.
    """
    made_from = [size, hash_file(recipe), hash_file(video), input_size, _graphs_hash()]
    if _is_current(path, made_from):
        return
    _note(path).unlink(missing_ok=True)
    keep_ratio = load_recipe(recipe).model.keep_ratio
    config = dataclasses.replace(formula_config(size), keep_ratio=keep_ratio)
    texts = {"config": config_text(config), "classes": json.dumps(YOUTUBE_VIS_2021)}
    save_file(formula_tensors(published_shapes(config)), str(path), metadata=texts)
    if config.pruned:
        with open_source(video, stop=CALIBRATION_FRAMES) as source:
            margins = _margins_at_budget(path, recipe, input_size, list(source))
        tensors = load_file(str(path))
        for i, margin in enumerate(margins):
            key = f"detector.backbone.selective_modules.{i}.mlp.fc2.bias"
            tensors[key] = (tensors[key] + np.array([-margin, margin]) / 2).astype(np.float32)
        save_file(tensors, str(path), metadata=texts)
    _set_current(path, made_from)


def make_bundle(folder: Path, checkpoint: Path, recipe: Path, input_size: tuple[int, int]) -> None:
    """Exports a bundle with the project's own command, in a process of its own.

    Args:
        folder: of the bundle; left as it is if it was made from the same.
        checkpoint: its weights.
        recipe: its budgets.
        input_size: (H, W) of the padded input.

    Raises:
        ExportError: the command failed; it has said why.
    """
    made_from = [hash_file(checkpoint), hash_file(recipe), input_size, _graphs_hash()]
    if _is_current(folder, made_from):
        return
    command = Path(sys.executable).with_name("vpp-deploy")
    size = f"{input_size[0]}x{input_size[1]}"
    options = ["--recipe", str(recipe), "--size", size, "--out", str(folder)]
    if subprocess.run([command, "export", str(checkpoint), *options], check=False).returncode:
        raise ExportError(f"{folder} could not be exported; see the message above")
    _set_current(folder, made_from)


def _margins_at_budget(
    path: Path, recipe_path: Path, input_size: tuple[int, int], frames: Sequence[Frame]
) -> list[float]:
    """For each selective module, the margin that as many tokens exceed as the recipe's budget."""
    recipe = load_recipe(recipe_path)
    model, _ = load_model(path, recipe.model)
    num_tokens = (input_size[0] // 16) * (input_size[1] // 16)
    if recipe.budgets is None or model.config.keep_ratio is None:
        raise RecipeError(f"{recipe_path} has no budgets, and the model is pruned; choose another")
    budgets = recipe.budgets.tokens(num_tokens, model.config.keep_ratio)
    counts = (budgets.blocks_3_5, budgets.blocks_6_8, budgets.blocks_9_11)
    cuts: list[list[float]] = [[] for _ in counts]

    def record(i: int, module: Any, inputs: Any, margins_1K: Tensor) -> None:
        ranked = margins_1K[0].sort(descending=True).values
        last, first_out = ranked[counts[i] - 1], ranked[min(counts[i], len(ranked) - 1)]
        cuts[i].append(float(last + first_out) / 2)

    for i, module in enumerate(model.backbone.selective_modules):
        module.register_forward_hook(functools.partial(record, i))
    _run(model, input_size, frames, Selection(counts=counts))
    # The first frame has all tokens in block 3 and is no guide to the others.
    return [float(np.mean(margins[1:])) for margins in cuts]


@torch.inference_mode()
def _run(
    model: VppModel, input_size: tuple[int, int], frames: Sequence[Frame], selection: Selection
) -> None:
    memories = (None,)
    for frame in frames:
        plan = plan_for_input(frame.rgb.shape[0], frame.rgb.shape[1], input_size)
        memories = model(
            torch.from_numpy(resize_frame(frame.rgb, plan))[None],
            torch.tensor([plan.resized]),
            memories,
            torch.zeros(1, 0, model.config.head_width),
            torch.zeros(1, 0, dtype=torch.bool),
            selection,
        ).memories


@functools.cache
def hash_source(*parts: str) -> str:
    """Of the code in these parts of the package, and of the modules beside them."""
    package = Path(vpp_deploy.__file__).parent
    sources = [source for part in parts for source in (package / part).rglob("*.py")]
    digest = hashlib.sha256()
    for source in sorted([*sources, *package.glob("*.py")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


@functools.cache
def _graphs_hash() -> str:
    """Of the code and the libraries that decide on weights and graphs."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(hash_source("checkpoints", "models", "partition", "export").encode())
    for library in ("torch", "onnx", "onnxscript"):
        digest.update(metadata.version(library).encode())
    return digest.hexdigest()


def _is_current(made: Path, made_from: list[Any]) -> bool:
    note = _note(made)
    return made.exists() and note.exists() and note.read_text() == json.dumps(made_from)


def _set_current(made: Path, made_from: list[Any]) -> None:
    _note(made).write_text(json.dumps(made_from))


def _note(made: Path) -> Path:
    """What a checkpoint or a bundle was made from, in a file beside it."""
    return made.with_name(f"{made.name}.from")

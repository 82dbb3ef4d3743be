"""A model of every published part in small: exported in seconds, with detections and tracks."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from filelock import FileLock
from numpy.typing import NDArray

from vpp_deploy.checkpoints.formula import config_text, formula_tensors, published_shapes
from vpp_deploy.export.bundle import INSPECTED_HEAD, export_bundle
from vpp_deploy.manifests import Manifest, read_manifest
from vpp_deploy.models.config import ModelConfig
from vpp_deploy.partition.prepare import Prepared, prepare_budgets
from vpp_deploy.specs import StageSpec
from vpp_deploy.video.source import Frame
from vpp_deploy.video.synthetic import moving_scene

CLASSES = ("ball", "boat", "dog", "person", "tree")
INPUT_SIZE = (96, 128)
SHARES = (0.5, 0.35, 0.2)
SLOTS = 8

_BACKGROUND = 4.0
"""Logit of the background class that lets a few of so few queries pass."""


def mini_config(pruned: bool = True) -> ModelConfig:
    """Every layer kind of the published models, a quarter as wide."""
    return ModelConfig(
        width=48,
        vit_heads=3,
        classes=CLASSES,
        pruned=pruned,
        keep_ratio=0.7 if pruned else None,
        selector_width=12 if pruned else None,
        map_selector_width=24 if pruned else None,
        mlp_width=96,
        adapter_ffn_width=12,
        stem_width=16,
        head_width=64,
        pixel_layers=1,
        pixel_ffn_width=128,
        decoder_layers=3,
        decoder_ffn_width=128,
        num_queries=20,
    )


def mini_tensors(config: ModelConfig) -> dict[str, NDArray[Any]]:
    """Weights by formula under their published keys."""
    tensors = formula_tensors(published_shapes(config))
    bias = tensors["detector.panoptic_head.cls_embed.bias"].copy()
    bias[-1] = _BACKGROUND
    return tensors | {"detector.panoptic_head.cls_embed.bias": bias}


def write_mini_checkpoint(
    path: Path,
    config: ModelConfig | None = None,
    changes: dict[str, NDArray[Any]] | None = None,
    metadata: bool = True,
) -> Path:
    """A .safetensors file as `write_formula_checkpoint` makes them; without metadata it is mute."""
    from safetensors.numpy import save_file

    config = config or mini_config()
    texts = {"config": config_text(config), "classes": json.dumps(list(config.classes))}
    tensors = mini_tensors(config) | (changes or {})
    save_file(tensors, str(path), metadata=texts if metadata else None)
    return path


def write_mini_recipe(path: Path, *, batch: int = 1, pruned: bool = True, extra: str = "") -> Path:
    """A recipe for the checkpoint above; `extra` is appended as it is."""
    names = ("blocks_3_5", "blocks_6_8", "blocks_9_11")
    shares = "".join(f"{n} = {s}\n" for n, s in zip(names, SHARES, strict=True))
    aside = path.with_name(f"{path.name}.{os.getpid()}")  # others may read it at this moment
    aside.write_text(
        f"[input]\nsize = {list(INPUT_SIZE)}\nbatch = {batch}\n"
        + (f"[budgets]\n{shares}" if pruned else "")
        + f"[tracks]\nslots = {SLOTS}\n{extra}"
    )
    return aside.replace(path)


@dataclass(frozen=True)
class ExportedMini:
    """A bundle with the model that it was made from.

    Attributes:
        prepared: model and plan.
        folder, manifest: of the finished bundle. Tests that change it change a copy.
        inspected, inspected_manifest: the same as it was while it was verified, when its head
            still showed its attention masks.
    """

    prepared: Prepared
    folder: Path
    manifest: Manifest
    inspected: Path
    inspected_manifest: Manifest


def export_mini(checkpoint: Path, recipe: Path, folder: Path) -> ExportedMini:
    """Exports as the command does, with a copy of what the verification gets to see.

    An export takes half a minute: of several processes that want the same one, one makes it.
    """
    inspected = folder.with_name(f"{folder.name}-inspected")
    seen = folder.with_name(f"{folder.name}-inspected.pickle")
    prepared = prepare_budgets(checkpoint, recipe, None)

    def verify(staged: Path, _: Manifest, inspect: Manifest) -> dict[str, Any]:
        shutil.copytree(staged, inspected)
        seen.write_bytes(pickle.dumps(inspect))
        return {}

    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            export_bundle(prepared, folder, verify=verify)
    manifest = read_manifest(folder)
    return ExportedMini(prepared, folder, manifest, inspected, pickle.loads(seen.read_bytes()))


def graphs_of(*bundles: ExportedMini) -> Callable[..., onnx.ModelProto]:
    """What `export_graph` made for these bundles, for others that are of the same stages.

    Put in its place in `vpp_deploy.export.bundle`, it saves the half minute of tracing them again.
    """

    def made(module: object, stage: StageSpec, bounds: object) -> onnx.ModelProto:
        del module, bounds
        name = INSPECTED_HEAD if stage.name == "head" else f"{stage.name}.onnx"
        (folder,) = (
            exported.inspected
            for exported in bundles
            if stage in exported.inspected_manifest.pipeline.stages
        )
        return onnx.load(folder / name)

    return made


def frames(count: int, seed: int = 0, size: tuple[int, int] = INPUT_SIZE) -> list[Frame]:
    """A moving scene."""
    return list(moving_scene(size, count, seed))

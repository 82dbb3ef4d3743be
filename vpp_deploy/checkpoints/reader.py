"""A checkpoint file as tensors, config text and class names; nothing in it is ever run.

.pth and .pt are torch's zip files (MODEL.md 6). A .safetensors file carries the text and the
names in its metadata, as `config` and `classes` (a JSON list).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch

from vpp_deploy.checkpoints.archives import TorchArchive
from vpp_deploy.checkpoints.keys import canonical_key
from vpp_deploy.checkpoints.pickles import LazyTensor, Value
from vpp_deploy.errors import CheckpointError
from vpp_deploy.manifests import hash_file


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        tensors: canonical key -> weights, as stored.
        config_text: the training's config, as text; None where the file has none.
        classes: class names, without background; None where the file has none.
        path: the file.
        sha256: of the whole file, in hexadecimal.
    """

    tensors: dict[str, torch.Tensor]
    config_text: str | None
    classes: tuple[str, ...] | None
    path: Path
    sha256: str


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .pth, .pt or .safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or holds no weights. The message
            names the file.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe or a device could keep us waiting for ever
            kind = "it is no file" if path.exists() else "no such file"
            raise CheckpointError(f"{kind}; expected a .pth or .safetensors file")
        read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
        tensors, text, classes = read(path)
        return Checkpoint(_canonical(tensors), text, classes, path, hash_file(path))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot read the checkpoint ({error.strerror or error}); "
            "expected a .pth or .safetensors file"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


_Content = tuple[dict[str, torch.Tensor], str | None, tuple[str, ...] | None]


def _read_torch(path: Path) -> _Content:
    with TorchArchive(path) as archive:
        root = archive.load()
        if not isinstance(root, dict):
            raise CheckpointError("it holds no dict; expected a dict with a state_dict")
        state = root.get("state_dict", root)
        if not isinstance(state, dict) or not any(
            isinstance(value, LazyTensor) for value in state.values()
        ):
            found = ", ".join(root)[:200]
            raise CheckpointError(
                f"it holds no state_dict of tensors (found: {found!r}); "
                "expected a mmengine checkpoint or a bare state dict"
            )
        tensors = {}
        for key, value in state.items():
            if not isinstance(value, LazyTensor):
                raise CheckpointError(
                    f"its state_dict entry {key[:200]!r} is no tensor; expected only tensors"
                )
            tensors[key] = archive.tensor(value)
    meta = root.get("meta")
    if not isinstance(meta, dict):
        return tensors, None, None
    text = meta.get("cfg")
    return tensors, text if isinstance(text, str) else None, _class_names(meta)


def _class_names(meta: Mapping[str, Value]) -> tuple[str, ...] | None:
    dataset = meta.get("dataset_meta")
    source = dataset if isinstance(dataset, dict) else meta
    # mmengine and the libraries around it moved from CLASSES to classes.
    names = source.get("CLASSES", source.get("classes"))
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(map(str, names))
    return None


def _read_safetensors(path: Path) -> _Content:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"not a valid safetensors file ({error})") from error
    names = None
    if "classes" in metadata:
        try:
            names = json.loads(metadata["classes"])
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError("its metadata entry classes is no JSON list of names")
    return tensors, metadata.get("config"), None if names is None else tuple(names)


def _canonical(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        canonical = canonical_key(key)
        if canonical in renamed:
            raise CheckpointError(
                f"it holds {canonical} twice, in two spellings; expected each weight once"
            )
        renamed[canonical] = tensor
    return renamed

"""What a checkpoint holds, and what is missing to export it. Nothing in it is run."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpp_deploy.errors import BackendError, CheckpointError, VppDeployError, printable
from vpp_deploy.inspection.facts import CheckpointFacts
from vpp_deploy.recipe_files import ModelIdentity, find_recipe, load_recipe

if TYPE_CHECKING:
    from vpp_deploy.checkpoints.reader import Checkpoint

_SIZES = {192: "Tiny", 384: "Small"}
_MAX_TEXT = 200
_DATASET = "dataset_type"
"""Name that public config texts bind to the kind of their dataset."""


def inspect_checkpoint(path: Path, recipe: Path | None = None) -> CheckpointFacts:
    """A checkpoint, tried with a recipe as an export would.

    Args:
        path: .pth, .pt or .safetensors.
        recipe: None finds one in `export/` that is made for such a checkpoint.

    Raises:
        BackendError: PyTorch is not installed.
        CheckpointError: the file cannot be read or is not safe to read.
        RecipeError: the recipe that was given cannot be read.
    """
    try:
        from vpp_deploy.checkpoints.keys import is_unused
        from vpp_deploy.checkpoints.reader import read_checkpoint
    except ImportError as error:
        raise BackendError(
            f"{path} is a checkpoint, and reading one needs {error.name}, which is not installed; "
            "install vpp-deploy[export]"
        ) from error

    if recipe is not None:
        load_recipe(recipe)
    checkpoint = read_checkpoint(path)
    safe = path.suffix == ".safetensors"
    holds, training = _safetensors_extras(path) if safe else _torch_extras(path)
    dtypes: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for key, tensor in checkpoint.tensors.items():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        if not is_unused(key):
            modules[_module(key)] += tensor.numel()
    trial = _try_export(checkpoint, recipe)
    identity = trial.identity
    return CheckpointFacts(
        kind="checkpoint",
        path=str(path),
        format="safetensors" if safe else "torch",
        bytes=path.stat().st_size,
        sha256=checkpoint.sha256,
        holds=holds,
        num_tensors=len(checkpoint.tensors),
        dtypes=dict(dtypes),
        parameters=modules.total(),
        modules=dict(modules),
        size=None if identity is None else _SIZES.get(identity.width),
        width=None if identity is None else identity.width,
        pruned=None if identity is None else identity.pruned,
        keep_ratio=None if identity is None else identity.keep_ratio,
        classes=checkpoint.classes,
        training=training | _dataset(checkpoint.config_text),
        recipe=None if trial.recipe is None else str(trial.recipe),
        model=trial.model,
        budgets=trial.budgets,
        missing=trial.missing,
    )


def _module(key: str) -> str:
    """backbone.blocks, panoptic_head.pixel_decoder and the like."""
    first, *rest = key.split(".")
    return ".".join([first, *rest[:1]]) if len(rest) > 1 else first


@dataclass
class _Trial:
    """What came of trying to export."""

    identity: ModelIdentity | None = None
    recipe: Path | None = None
    model: dict[str, Any] | None = None
    budgets: tuple[int, ...] | None = None
    missing: str | None = None


def _try_export(checkpoint: "Checkpoint", recipe: Path | None) -> _Trial:
    """Goes as far as an export does before its graphs."""
    from vpp_deploy.checkpoints.settings import identify
    from vpp_deploy.partition.prepare import RECIPES, prepare_budgets

    trial = _Trial(recipe=recipe)
    try:
        trial.identity = identify(checkpoint)
        trial.recipe = recipe or find_recipe(RECIPES, trial.identity)
        prepared = prepare_budgets(checkpoint.path, trial.recipe, None)
    except VppDeployError as error:
        trial.missing = printable(str(error))
        return trial
    trial.model = dataclasses.asdict(prepared.model.config)
    if prepared.budgets is not None:
        trial.budgets = dataclasses.astuple(prepared.budgets)
    return trial


def _torch_extras(path: Path) -> tuple[tuple[str, ...], dict[str, str | int | float | bool]]:
    """What is beside the weights, and what of the metadata is short and plain."""
    from vpp_deploy.checkpoints.archives import TorchArchive

    with TorchArchive(path) as archive:
        root = archive.load()
    if not isinstance(root, dict) or "state_dict" not in root:
        return (), {}
    meta = root.get("meta")
    holds = tuple(printable(str(key))[:_MAX_TEXT] for key in root if key != "state_dict")
    return holds, _plain(meta) if isinstance(meta, dict) else {}


def _safetensors_extras(path: Path) -> tuple[tuple[str, ...], dict[str, str | int | float | bool]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file ({error})") from error
    return tuple(printable(key)[:_MAX_TEXT] for key in metadata), _plain(metadata)


def _plain(meta: Mapping[Any, object]) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {}
    for key, value in meta.items():
        # The config is a text of its own, and class names are told apart.
        if key in ("cfg", "config", "classes", "CLASSES"):
            continue
        name = printable(str(key))[:_MAX_TEXT]
        if isinstance(value, str):
            found[name] = printable(value)[:_MAX_TEXT]
        elif isinstance(value, bool | int | float):
            found[name] = value
    return found


def _dataset(config_text: str | None) -> dict[str, str | int | float | bool]:
    from vpp_deploy.checkpoints.config_text import config_values

    name = config_values(config_text).get(_DATASET)
    return {"dataset": printable(name)[:_MAX_TEXT]} if isinstance(name, str) else {}

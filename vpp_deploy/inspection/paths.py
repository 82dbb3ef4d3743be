"""Finds out what is at a path."""

import dataclasses
from pathlib import Path

from vpp_deploy.engines.recipes import load_engine_recipe
from vpp_deploy.errors import BundleError, RecipeError
from vpp_deploy.inspection.checkpoints import inspect_checkpoint
from vpp_deploy.inspection.facts import Facts, RecipeFacts
from vpp_deploy.inspection.models import inspect_model
from vpp_deploy.manifests import MANIFEST_NAME
from vpp_deploy.recipe_files import load_recipe, read_toml
from vpp_deploy.runtime.opening import CHECKPOINT_SUFFIXES


def inspect_path(path: Path, recipe: Path | None = None) -> Facts:
    """What is at `path`: the folder of a bundle or of engines, a checkpoint, or a recipe.

    Args:
        path: a manifest stands for its folder.
        recipe: as `inspect_checkpoint` takes it; other kinds have no use for it.

    Raises:
        BundleError: there is nothing, or nothing of ours, or it is damaged.
        CheckpointError, BackendError, RecipeError: as `inspect_checkpoint` and `load_recipe`.
    """
    if path.is_dir():
        return inspect_model(path)
    if path.suffix in CHECKPOINT_SUFFIXES:
        return inspect_checkpoint(path, recipe)
    if path.suffix == ".toml":
        return inspect_recipe(path)
    if path.name == MANIFEST_NAME:
        return inspect_model(path.parent)
    if not path.exists():
        raise BundleError(f"{path}: no such file or folder; check the path")
    raise BundleError(
        f"{path} is none of ours; expected the folder of a bundle or of engines, a checkpoint "
        f"({', '.join(CHECKPOINT_SUFFIXES)}) or a recipe (.toml)"
    )


def inspect_recipe(path: Path) -> RecipeFacts:
    """A recipe for exports, or one for engines.

    Raises:
        RecipeError: it is neither.
    """
    try:
        document = read_toml(path)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    # Recipes for exports have tables, those for engines have none.
    if document and not any(isinstance(value, dict) for value in document.values()):
        values = dataclasses.asdict(load_engine_recipe(path))
        return RecipeFacts("engine recipe", str(path), values, None, None)
    recipe = load_recipe(path)
    budgets = None
    if recipe.budgets is not None and recipe.model.keep_ratio is not None:
        counted = recipe.budgets.tokens(recipe.num_tokens, recipe.model.keep_ratio)
        budgets = dataclasses.astuple(counted)
    return RecipeFacts("recipe", str(path), dataclasses.asdict(recipe), recipe.num_tokens, budgets)

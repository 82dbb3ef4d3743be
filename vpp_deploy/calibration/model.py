"""The model whose rule is looked at, and the recipe that its new budgets go into."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpp_deploy.errors import BackendError, BundleError, RecipeError
from vpp_deploy.manifests import read_manifest
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.recipes import Budgets, BudgetShares, ExportRecipe
from vpp_deploy.runtime.torch_runner import TorchRunner

if TYPE_CHECKING:
    from vpp_deploy.partition.prepare import Prepared

_MISSING = "calibrating runs the checkpoint in PyTorch, which is not installed; install {}"


@dataclass(frozen=True)
class RuleModel:
    """A model under the published rule.

    Attributes:
        name: for people.
        runner: of one stream.
        num_tokens, map_tokens: N, and K1 of it.
        budgets: that the bundle has now; None of a checkpoint.
        recipe: everything but the budgets.
    """

    name: str
    runner: TorchRunner
    num_tokens: int
    map_tokens: int
    budgets: Budgets | None
    recipe: ExportRecipe

    def use_threads(self, threads: int) -> None:
        """Of PyTorch, for the whole process."""
        import torch

        torch.set_num_threads(threads)

    def recipe_with(self, shares: BudgetShares) -> ExportRecipe:
        """The recipe that exports this model with such budgets.

        Raises:
            RecipeError: an engine could not hold them.
        """
        return dataclasses.replace(self.recipe, budgets=shares)


def open_bundles_rule(folder: Path, checkpoint: Path | None) -> RuleModel:
    """The rule of the checkpoint that a bundle or an engine was made from.

    Args:
        folder: of the bundle or the engine.
        checkpoint: where it is now; None: where the manifest says it was.

    Raises:
        BundleError: the bundle cannot be read, or its checkpoint is not where it was.
        CheckpointError: the checkpoint cannot be read, or is not the bundle's.
        RecipeError: the model is dense.
    """
    manifest = read_manifest(folder)
    path = checkpoint or Path(manifest.checkpoint)
    if not manifest.budgets:
        raise _dense(str(folder))
    if checkpoint is None and not path.is_file():
        raise BundleError(
            f"{folder} was exported from {path}, which is not there; a bundle has fixed budgets, "
            "the rule is the checkpoint's: name it with --checkpoint"
        )
    try:
        from vpp_deploy.partition.prepare import prepare_published_again, recipe_of
    except ImportError as error:
        raise BackendError(_MISSING.format("vpp-deploy[export]")) from error
    prepared = prepare_published_again(path, manifest)
    return _model(str(folder), prepared, recipe_of(manifest), Budgets(*manifest.budgets))


def open_checkpoints_rule(
    path: Path, recipe_path: Path | None, input_size: tuple[int, int]
) -> RuleModel:
    """The rule of a checkpoint.

    Args:
        path: of the checkpoint.
        recipe_path: what the checkpoint does not say; its budgets are not used.
        input_size: (H, W), in place of the recipe's.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit.
        RecipeError: a setting is missing or contradicts the checkpoint, or the model is dense.
    """
    try:
        from vpp_deploy.partition.prepare import prepare_published
    except ImportError as error:
        raise BackendError(_MISSING.format("vpp-deploy[export]")) from error
    height, width = input_size
    if recipe_path is None:
        recipe = ExportRecipe(height, width)
    else:
        recipe = dataclasses.replace(
            load_recipe(recipe_path), height=height, width=width, budgets=None
        )
    return _model(str(path), prepare_published(path, recipe_path, input_size), recipe, None)


def _model(
    name: str, prepared: "Prepared", recipe: ExportRecipe, budgets: Budgets | None
) -> RuleModel:
    config = prepared.model.config
    if config.keep_ratio is None:
        raise _dense(name)
    count = int(recipe.num_tokens * config.keep_ratio)
    runner = TorchRunner(prepared.plan)
    return RuleModel(name, runner, recipe.num_tokens, count, budgets, recipe)


def _dense(name: str) -> RecipeError:
    return RecipeError(
        f"{name} is a dense model: it has no selectors, so no budgets; give a pruned one"
    )

"""From a checkpoint and a recipe to a model and its plan: what export and a torch run share."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.checkpoints.reader import Checkpoint, read_checkpoint
from vpp_deploy.checkpoints.settings import identify
from vpp_deploy.errors import RecipeError
from vpp_deploy.models.deformable import (
    Sampler,
    sample_deform_conv,
    sample_gather,
    sample_grid,
)
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.plan import PipelinePlan, plan_pipeline
from vpp_deploy.recipe_files import find_recipe, load_recipe
from vpp_deploy.recipes import Budgets, ExportRecipe, ModelSettings

RECIPES = Path("export")
"""Where recipes are looked for when none is named."""

SAMPLERS: dict[str, Sampler] = {"cpu": sample_deform_conv, "gpu": sample_gather}
"""What `export.target` in a recipe means for deformable attention."""


@dataclass(frozen=True)
class Prepared:
    """A model, cut and ready to run or to export.

    Attributes:
        model: with its weights.
        checkpoint: where they came from.
        plan: the stages.
        budgets: of the plan; None for a dense model and under the published rule.
        recipe: what the plan follows; None under the published rule.
        recipe_path: the file used; None where none was needed.
    """

    model: VppModel
    checkpoint: Checkpoint
    plan: PipelinePlan
    budgets: Budgets | None
    recipe: ExportRecipe | None
    recipe_path: Path | None


def prepare_budgets(
    path: Path,
    recipe_path: Path | None,
    input_size: tuple[int, int] | None,
    precision: str | None = None,
) -> Prepared:
    """The model with fixed budgets and track slots, as a recipe says.

    Args:
        path: the checkpoint.
        recipe_path: None finds the recipe in `export/` that is made for such a checkpoint.
        input_size: (H, W) to use in place of the recipe's.
        precision: of the graphs, in place of the recipe's.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit.
        RecipeError: no recipe fits, or it contradicts the checkpoint.
    """
    checkpoint = read_checkpoint(path)
    if recipe_path is None:
        recipe_path = find_recipe(RECIPES, identify(checkpoint))
    recipe = load_recipe(recipe_path)
    if input_size is not None:
        recipe = dataclasses.replace(recipe, height=input_size[0], width=input_size[1])
    if precision is not None:
        recipe = dataclasses.replace(recipe, precision=precision)
    model = build_model(checkpoint, recipe.model, SAMPLERS[recipe.target])
    budgets = _budgets(model, recipe, recipe_path)
    size = (recipe.height, recipe.width)
    plan = plan_pipeline(model, size, budgets, recipe.slots, recipe.batch)
    return Prepared(model, checkpoint, plan, budgets, recipe, recipe_path)


def prepare_published(
    path: Path, recipe_path: Path | None, input_size: tuple[int, int]
) -> Prepared:
    """The model under the published threshold rule, with any number of tracks.

    A recipe is needed only for what the checkpoint does not say of itself. Arguments and errors
    are those of `prepare_budgets`.
    """
    checkpoint = read_checkpoint(path)
    settings = ModelSettings() if recipe_path is None else load_recipe(recipe_path).model
    model = build_model(checkpoint, settings, sample_grid)
    plan = plan_pipeline(model, input_size, None, None)
    return Prepared(model, checkpoint, plan, None, None, recipe_path)


def _budgets(model: VppModel, recipe: ExportRecipe, path: Path) -> Budgets | None:
    if not model.config.pruned:
        if recipe.budgets is not None:
            raise RecipeError(
                f"{path}: [budgets] is set, but the checkpoint is dense and has no selectors; "
                "remove the table"
            )
        return None
    if recipe.budgets is None:
        raise RecipeError(f"{path}: [budgets] is missing, and the checkpoint has selectors; set it")
    assert model.config.keep_ratio is not None
    return recipe.budgets.tokens(recipe.num_tokens, model.config.keep_ratio)

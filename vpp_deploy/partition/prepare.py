"""From a checkpoint and a recipe to a model and its plan: what export and a torch run share."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.checkpoints.reader import Checkpoint, read_checkpoint
from vpp_deploy.checkpoints.settings import identify
from vpp_deploy.errors import CheckpointError, RecipeError
from vpp_deploy.manifests import Manifest
from vpp_deploy.models.deformable import (
    Sampler,
    sample_deform_conv,
    sample_gather,
    sample_grid,
)
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.plan import PipelinePlan, plan_pipeline
from vpp_deploy.recipe_files import find_recipe, load_recipe
from vpp_deploy.recipes import Budgets, ExportRecipe, ModelSettings, target_of

RECIPES = Path("export")
"""Where recipes are looked for when none is named."""

SAMPLERS: dict[str, Sampler] = {"cpu": sample_deform_conv, "gpu": sample_gather}
"""What `export.target` in a recipe means for deformable attention."""


@dataclass(frozen=True)
class Prepared:
    """A model, cut and ready to run or to export.

    Attributes:
        model: with its weights; cast by the plan where that is in half precision.
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
    target: str | None = None,
) -> Prepared:
    """The model with fixed budgets and track slots, as a recipe says.

    Args:
        path: the checkpoint.
        recipe_path: None finds the recipe in `export/` that is made for such a checkpoint.
        input_size: (H, W) to use in place of the recipe's.
        precision: of the graphs, in place of the recipe's; it brings its usual target.
        target: of the graphs, in place of the recipe's.

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
        recipe = dataclasses.replace(recipe, precision=precision, target=target_of(precision))
    if target is not None:
        recipe = dataclasses.replace(recipe, target=target)
    model = build_model(checkpoint, recipe.model, SAMPLERS[recipe.target])
    budgets = _budgets(model, recipe, recipe_path)
    return Prepared(model, checkpoint, _plan(model, recipe, budgets), budgets, recipe, recipe_path)


def prepare_again(path: Path, manifest: Manifest, precision: str, target: str) -> Prepared:
    """The model of an exported bundle, for another precision or another target.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not the one that was exported.
    """
    checkpoint = _read_again(path, manifest)
    recipe = dataclasses.replace(recipe_of(manifest), precision=precision, target=target)
    model = build_model(checkpoint, recipe.model, SAMPLERS[target])
    budgets = Budgets(*manifest.budgets) if manifest.budgets else None
    return Prepared(model, checkpoint, _plan(model, recipe, budgets), budgets, recipe, None)


def recipe_of(manifest: Manifest) -> ExportRecipe:
    """A recipe that makes such a bundle again, but for the budgets: the manifest has those."""
    sizes = manifest.model
    settings = ModelSettings(
        vit_heads=sizes["vit_heads"],
        adapter_heads=sizes["adapter_heads"],
        pixel_heads=sizes["pixel_heads"],
        decoder_heads=sizes["decoder_heads"],
        keep_ratio=sizes["keep_ratio"],
        reference_tokens=sizes["reference_tokens"],
        classes=manifest.classes,
        override_checkpoint=True,
    )
    height, width = manifest.preprocessing.input_size
    return ExportRecipe(
        height,
        width,
        model=settings,
        batch=manifest.batch,
        slots=manifest.track_slots,
        precision=manifest.precision,
        target=manifest.target,
    )


def prepare_published(
    path: Path, recipe_path: Path | None, input_size: tuple[int, int]
) -> Prepared:
    """The model under the published threshold rule, with any number of tracks.

    A recipe is needed only for what the checkpoint does not say of itself. Arguments and errors
    are those of `prepare_budgets`.
    """
    settings = ModelSettings() if recipe_path is None else load_recipe(recipe_path).model
    return _published(read_checkpoint(path), settings, input_size, recipe_path)


def prepare_published_again(path: Path, manifest: Manifest) -> Prepared:
    """The model of an exported bundle under the published threshold rule, at the bundle's size.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not the one that was exported.
    """
    settings, size = recipe_of(manifest).model, manifest.preprocessing.input_size
    return _published(_read_again(path, manifest), settings, size, None)


def _published(
    checkpoint: Checkpoint,
    settings: ModelSettings,
    input_size: tuple[int, int],
    recipe_path: Path | None,
) -> Prepared:
    model = build_model(checkpoint, settings, sample_grid)
    plan = plan_pipeline(model, input_size, None, None)
    return Prepared(model, checkpoint, plan, None, None, recipe_path)


def _read_again(path: Path, manifest: Manifest) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    if checkpoint.sha256 != manifest.checkpoint_sha256:
        raise CheckpointError(
            f"{path} is not the checkpoint that {manifest.name} was exported from (its SHA-256 "
            "differs); name that one, or export the bundle again"
        )
    return checkpoint


def _plan(model: VppModel, recipe: ExportRecipe, budgets: Budgets | None) -> PipelinePlan:
    return plan_pipeline(
        model,
        (recipe.height, recipe.width),
        budgets,
        recipe.slots,
        recipe.batch,
        recipe.precision,
        recipe.target,
    )


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

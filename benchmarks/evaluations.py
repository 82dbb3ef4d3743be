"""Bundles at chosen budgets, and what they find on a labelled dataset: kept, so that a run goes on.

A result is kept beside its bundle and taken again where the bundle, the dataset's labels, the
policy, and the code that runs and judges a model are the same.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import hash_source, make_bundle
from vpp_deploy.calibration.budgets import share_kept
from vpp_deploy.errors import RecipeError
from vpp_deploy.evaluation.dataset import Dataset
from vpp_deploy.evaluation.evaluator import Figures
from vpp_deploy.evaluation.run import evaluate
from vpp_deploy.files import written_aside
from vpp_deploy.manifests import MANIFEST_NAME, PATCH_SIZE, hash_file, read_manifest
from vpp_deploy.recipe_files import write_recipe
from vpp_deploy.recipes import BudgetShares, ExportRecipe, target_of
from vpp_deploy.runtime.exploration import Exploration
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.runtime.run_files import RESULTS


@dataclass(frozen=True)
class Evaluated:
    """What one bundle found.

    Attributes:
        figures: of all classes and videos.
        num_tracks: found.
        results: the file with the tracks, in YouTube-VIS's form.
    """

    figures: Figures
    num_tracks: int
    results: Path


def at_share(recipe: ExportRecipe, kept: float) -> ExportRecipe:
    """The recipe with budgets that run this share of the patches, averaged over the 12 blocks.

    The four shares keep the proportions that they have in `recipe`; none exceeds 1.

    Raises:
        RecipeError: the recipe has no budgets, or so few patches cannot be had.
    """
    if recipe.budgets is None or recipe.model.keep_ratio is None:
        raise RecipeError("the recipe has no budgets or no model.keep_ratio; give one of both")
    trained = (recipe.model.keep_ratio, *dataclasses.astuple(recipe.budgets))

    def scaled(factor: float) -> tuple[float, ...]:
        return tuple(min(1.0, share * factor) for share in trained)

    low, high = 0.0, 1 / min(trained)
    if not share_kept(scaled(low), 1) < kept <= share_kept(scaled(high), 1) + 1e-9:
        raise RecipeError(
            f"no budgets run {kept:.0%} of the patches; block 0 runs them all, the others what the "
            "shares say: expected a number above 0.08 and up to 1"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share_kept(scaled(middle), 1) < kept else (low, middle)
    first, *later = (round(share, 4) for share in scaled(high))
    model = dataclasses.replace(recipe.model, keep_ratio=first, override_checkpoint=True)
    return dataclasses.replace(recipe, model=model, budgets=BudgetShares(*later))


def bundle_of(checkpoint: Path, recipe: ExportRecipe, precision: str, folder: Path) -> Path:
    """Exports with the project's own command, unless it was done before.

    Raises:
        ExportError: the command failed.
        RecipeError: there is no such precision.
    """
    recipe = dataclasses.replace(recipe, precision=precision, target=target_of(precision))
    path = folder.with_name(f"{folder.name}.toml")
    text = write_recipe(recipe)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    make_bundle(folder, checkpoint, path, (recipe.height, recipe.width))
    return folder


def kept_by(bundle: Path) -> float:
    """Share of the patches that a bundle runs, averaged over the blocks; 1 of a dense model."""
    manifest = read_manifest(bundle)
    height, width = manifest.preprocessing.input_size
    tokens = (height // PATCH_SIZE) * (width // PATCH_SIZE)
    return share_kept(manifest.budgets or (tokens,) * 4, tokens)


def evaluated(
    bundle: Path, dataset: Dataset, threads: int | None, exploration: Exploration | None = None
) -> Evaluated:
    """AP and AR of a bundle on a dataset, from before where nothing has changed.

    Raises:
        VppDeployError: as `open_bundle` and `evaluate`.
    """
    made_from = [
        hash_file(bundle / MANIFEST_NAME),
        hash_file(dataset.path),
        str(exploration),
        hash_source("runtime", "video", "evaluation"),
    ]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    out = bundle.with_name(f"{bundle.name}.{key}")
    done = out / "evaluated.json"
    if not done.is_file():
        model = open_bundle(bundle, threads=threads)
        out.mkdir(exist_ok=True)
        seen = evaluate(model, model.session(exploration), dataset, out=out)
        kept = {"figures": dataclasses.asdict(seen.figures), "num_tracks": seen.num_tracks}
        with written_aside(done) as aside:
            aside.write_text(json.dumps(kept))
    document: dict[str, Any] = json.loads(done.read_text())
    return Evaluated(Figures(**document["figures"]), document["num_tracks"], out / RESULTS)

"""Bundles at chosen budgets, and what they find on a labelled dataset: kept, so that a run goes on.

A result is kept beside its bundle and taken again where the bundle, the dataset's labels and
images, the policy, and the code and libraries that run and judge a model are the same.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from benchmarks import environment
from benchmarks.checkpoints import hash_source, make_bundle
from benchmarks.report import as_markdown
from vpp_deploy.calibration.budgets import share_kept
from vpp_deploy.errors import BackendError, RecipeError
from vpp_deploy.evaluation.dataset import Dataset
from vpp_deploy.evaluation.evaluator import Figures
from vpp_deploy.evaluation.run import evaluate
from vpp_deploy.files import written_aside
from vpp_deploy.manifests import MANIFEST_NAME, PATCH_SIZE, hash_file, read_manifest
from vpp_deploy.profiling.environment import versions_of
from vpp_deploy.recipe_files import write_recipe
from vpp_deploy.recipes import BudgetShares, ExportRecipe, target_of
from vpp_deploy.runtime.exploration import Exploration
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.runtime.run_files import RESULTS

LIBRARIES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "opencv-python",
    "mmdet",
    "pycocotools",
)
"""Those that figures depend on, under the names that they can be installed by."""

KEPT = "evaluated.json"


class ExplorationError(BackendError):
    """A model that cannot be explored in the way that was asked for."""


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


def label_of(share: float) -> str:
    """A share of the patches as it is printed, and as its bundle is named."""
    return f"{100 * share:g}"


def check_shares(shares: list[float] | None) -> list[float] | None:
    """Of a command's option: two shares of one label would be one bundle.

    Raises:
        typer.BadParameter: there are such.
    """
    labels = [label_of(share) for share in shares or ()]
    for label in labels:
        if labels.count(label) > 1:
            raise typer.BadParameter(f"{labels.count(label)} shares are called {label}%")
    return shares


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
        ExplorationError: the model cannot be explored so.
        VppDeployError: as `open_bundle` and `evaluate`.
    """
    made_from = [
        hash_file(bundle / MANIFEST_NAME),
        hash_file(dataset.path),
        [hash_file(file) for video in dataset.videos for file in video.files],
        str(exploration),
        hash_source("runtime", "video", "evaluation"),
        versions_of(LIBRARIES),
    ]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    out = bundle.with_name(f"{bundle.name}.{key}")
    before = _kept(out)
    if before is not None:
        return before
    model = open_bundle(bundle, threads=threads)
    try:
        session = model.session(exploration)
    except BackendError as error:
        raise ExplorationError(str(error)) from error
    out.mkdir(exist_ok=True)
    seen = evaluate(model, session, dataset, out=out)
    document = {"figures": dataclasses.asdict(seen.figures), "num_tracks": seen.num_tracks}
    with written_aside(out / KEPT) as aside:
        aside.write_text(json.dumps(document))
    return Evaluated(seen.figures, seen.num_tracks, out / RESULTS)


def _kept(out: Path) -> Evaluated | None:
    """What an earlier run left; None where it is not whole: then it is evaluated again."""
    try:
        document: dict[str, Any] = json.loads((out / KEPT).read_text(encoding="utf-8"))
        figures, num_tracks = Figures(**document["figures"]), int(document["num_tracks"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    results = out / RESULTS
    return Evaluated(figures, num_tracks, results) if results.is_file() else None


def setting_of(files: Mapping[str, Path | None], dataset: Dataset) -> dict[str, str]:
    """What figures are of, and where they were taken: label to value, for people to read.

    Args:
        files: label to a file that decides on them, None where there is none.
        dataset: what models are compared with.
    """
    return {
        **{
            label: f"{path.name}, SHA-256 {hash_file(path)}"
            for label, path in files.items()
            if path is not None
        },
        "dataset": f"{dataset.path}, {len(dataset.videos)} videos, {dataset.num_frames} frames",
        **environment.describe(),
    }


def report(
    path: Path,
    setting: Mapping[str, str],
    points: Sequence[Mapping[str, object]],
    table: Sequence[Sequence[str]],
) -> None:
    """Writes the points as JSON and prints the table, both with what they are of."""
    document = {"setting": setting, "points": points}
    path.write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(f"\n{as_markdown(table)}\n")
    for key, value in setting.items():
        print(f"- {key}: {value}")

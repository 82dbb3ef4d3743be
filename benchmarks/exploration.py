"""What lets objects be seen that enter late: AP, and how long they go unseen, by policy.

    python -m benchmarks.exploration CHECKPOINT DATASET --recipe RECIPE

Each policy of `run --exploration` over the same bundles, at the recipe's budgets scaled to each
share, and both behaviours of the reference tokens (MODEL.md 2.3). Nothing is timed.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from benchmarks.errors import in_one_line
from benchmarks.evaluations import (
    ExplorationError,
    at_share,
    bundle_of,
    check_shares,
    evaluated,
    kept_by,
    label_of,
    report,
    setting_of,
)
from benchmarks.first_seen import first_seen, late_objects
from vpp_deploy.cli.signals import exit_on_signals
from vpp_deploy.evaluation.dataset import read_dataset
from vpp_deploy.manifests import read_manifest
from vpp_deploy.models.config import ReferenceTokens
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.recipes import ExportRecipe
from vpp_deploy.runtime.exploration import NONE, parse_exploration

POLICIES = (NONE, "noise:0", "noise:1", "noise:2", "lattice:16", "lattice:8", "lattice:4")
REFERENCES: tuple[ReferenceTokens, ...] = get_args(ReferenceTokens)


def recipes(
    recipe: ExportRecipe, shares: Sequence[float]
) -> Iterator[tuple[str, float, ExportRecipe]]:
    """(reference tokens, share, recipe) of every bundle."""
    for reference in REFERENCES:
        model = dataclasses.replace(
            recipe.model, reference_tokens=reference, override_checkpoint=True
        )
        for share in shares:
            yield reference, share, at_share(dataclasses.replace(recipe, model=model), share)


def _check_policies(policies: list[str] | None) -> list[str] | None:
    try:
        for text in policies or ():
            parse_exploration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return policies


@in_one_line()
def main(
    checkpoint: Annotated[Path, typer.Argument(exists=True, help="Of a model with selectors.")],
    dataset: Annotated[Path, typer.Argument(help="Whose objects enter late.")],
    recipe: Annotated[Path, typer.Option(exists=True, help="The model's; its budgets are scaled.")],
    share: Annotated[
        list[float] | None,
        typer.Option(callback=check_shares, help="Of the patches; default: 0.54 and 0.35."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(callback=_check_policies, help="Several times; default: all."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of every model alike.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for bundles and results.")] = Path(
        "runs/exploration"
    ),
) -> None:
    """Compare exploration policies and reference tokens."""
    exit_on_signals()  # so that an export, which is a process of its own, ends as well
    table = [["patches", "reference tokens", "exploration", "AP", "AR10", "found", "frames unseen"]]
    points: list[dict[str, object]] = []
    labelled = read_dataset(dataset)
    setting = setting_of({"checkpoint": checkpoint, "recipe": recipe}, labelled)
    setting["objects that enter late"] = str(len(late_objects(labelled)))
    setting["threads"] = str(threads)
    chosen = list(recipes(load_recipe(recipe), share or [0.54, 0.35]))
    out.mkdir(parents=True, exist_ok=True)
    for reference, kept, one in chosen:
        bundle = bundle_of(checkpoint, one, "fp32", out / f"{reference}-{label_of(kept)}")
        budgets = read_manifest(bundle).budgets
        for text in policy or POLICIES:
            try:
                found = evaluated(bundle, labelled, threads, parse_exploration(text))
            except ExplorationError as error:
                print(f"{bundle} is left out with {text}: {error}", file=sys.stderr)
                continue
            late = first_seen(labelled, found.results)
            figures = (found.figures.ap, found.figures.ar10, late.found)
            table.append(
                [
                    f"{kept_by(bundle):.1%}",
                    reference,
                    text,
                    *("-" if value is None else f"{100 * value:.1f}" for value in figures),
                    f"{late.frames_unseen:.2f}",
                ]
            )
            print(*table[-1], file=sys.stderr)
            points.append(
                {
                    "kept": kept_by(bundle),
                    "budgets": budgets,
                    "reference_tokens": reference,
                    "exploration": text,
                    **dataclasses.asdict(found.figures),
                    **dataclasses.asdict(late),
                }
            )
    report(out / "exploration.json", setting, points, table)


if __name__ == "__main__":
    typer.run(main)

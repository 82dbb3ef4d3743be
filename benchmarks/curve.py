"""How much accuracy is lost at which share of the patches: AP, operations and latency by budget.

    python -m benchmarks.curve CHECKPOINT DATASET --recipe RECIPE

Every point is a bundle, exported and evaluated as a user would do it; both are kept in `--out`, so
an interrupted run goes on. At the end the models of the precisions that the CPU is made for are
timed in one process, frame by frame in turns: what is printed is time over that of the model
that runs every patch in float32.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import typer

from benchmarks import environment
from benchmarks.curve_times import BASE, time_bundles, times_of, told
from benchmarks.errors import in_one_line
from benchmarks.evaluations import (
    Evaluated,
    at_share,
    bundle_of,
    check_shares,
    evaluated,
    kept_by,
    label_of,
    report,
    setting_of,
)
from vpp_deploy.cli.signals import exit_on_signals
from vpp_deploy.evaluation.dataset import Dataset, read_dataset
from vpp_deploy.manifests import read_manifest
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.recipes import ExportRecipe
from vpp_deploy.runtime.exploration import suited_exploration
from vpp_deploy.specs import PRECISIONS

EVERY, DENSE = "every patch", "dense checkpoint"


@dataclass(frozen=True)
class Point:
    """One bundle of the curve.

    Attributes:
        label, precision: which.
        kept: share of the patches that run, averaged over the blocks.
        budgets: tokens that run, as a manifest has them.
        gmacs: 10^9 multiply-accumulates of a frame in mid-video.
        found: on the dataset.
        ms, over_full: median of a frame, and of its ratio to the fp32 model that runs every patch;
            None if not timed.
    """

    label: str
    precision: str
    kept: float
    budgets: tuple[int, ...]
    gmacs: float
    found: Evaluated
    ms: float | None = None
    over_full: float | None = None


def bundles(
    pruned: Path,
    dense: Path | None,
    recipe: ExportRecipe,
    shares: Sequence[float],
    precisions: Sequence[str],
    out: Path,
) -> Iterator[tuple[str, str, Path]]:
    """(label, precision, bundle) of every point, made if they are not there."""
    recipes = {(EVERY, pruned): at_share(recipe, 1.0)}
    recipes |= {(f"{label_of(share)}%", pruned): at_share(recipe, share) for share in shares}
    if dense is not None:
        without = dataclasses.replace(recipe.model, keep_ratio=None, reference_tokens=None)
        recipes[DENSE, dense] = dataclasses.replace(recipe, model=without, budgets=None)
    for precision in precisions:
        for (label, checkpoint), one in recipes.items():
            name = label.rstrip("%").replace(" ", "-")
            folder = out / f"{name}-{precision}"
            yield label, precision, bundle_of(checkpoint, one, precision, folder)


def rows(points: Sequence[Point]) -> list[list[str]]:
    """The table, AP in percent."""
    heading = [
        "",
        "precision",
        "patches",
        "AP",
        "AP50",
        "AP75",
        "AR10",
        "GMAC",
        "ms",
        "/ every patch",
    ]
    body = []
    for point in points:
        figures = point.found.figures
        shown = (figures.ap, figures.ap50, figures.ap75, figures.ar10)
        body.append(
            [
                point.label,
                point.precision,
                f"{point.kept:.1%}",
                *("-" if value is None else f"{100 * value:.1f}" for value in shown),
                f"{point.gmacs:.2f}",
                "-" if point.ms is None else f"{point.ms:.1f}",
                "-" if point.over_full is None else f"{point.over_full:.3f}",
            ]
        )
    return [heading, *body]


def draw(points: Sequence[Point], path: Path) -> None:
    """AP and relative time by the share of patches, one line for each precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="tight")
    for precision in dict.fromkeys(point.precision for point in points):
        of_it = [p for p in points if p.precision == precision and p.label != DENSE]
        of_it.sort(key=lambda point: point.kept)
        aps = [100 * (point.found.figures.ap or 0) for point in of_it]
        left.plot([100 * p.kept for p in of_it], aps, marker="o", label=precision)
        timed = [(100 * p.kept, p.over_full) for p in of_it if p.over_full is not None]
        if timed:
            right.plot(*zip(*timed, strict=True), marker="o", label=precision)
    for dense in (p for p in points if (p.label, p.precision) == (DENSE, points[0].precision)):
        ap = 100 * (dense.found.figures.ap or 0)
        left.axhline(ap, color="grey", linestyle=":", label=DENSE)
    right.axhline(1, color="grey", linestyle=":")
    left.set(xlabel="patches run, % (mean of the blocks)", ylabel="AP, %", ylim=(0, None))
    right.set(
        xlabel="patches run, % (mean of the blocks)",
        ylabel="time / every patch in fp32",
        ylim=(0, None),
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _check_precisions(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name not in PRECISIONS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(PRECISIONS)}")
    return names


@in_one_line()
def main(
    checkpoint: Annotated[Path, typer.Argument(exists=True, help="Of a model with selectors.")],
    dataset: Annotated[Path, typer.Argument(help="Labelled, in YouTube-VIS's layout.")],
    recipe: Annotated[Path, typer.Option(exists=True, help="The model's; its budgets are scaled.")],
    dense: Annotated[
        Path | None,
        typer.Option(exists=True, help="Checkpoint of the dense model, to compare with."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            callback=check_shares, help="Of the patches, several times; default: 0.8 to 0.3."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            callback=_check_precisions, help="Beside fp32, several times; default: fp16, int8."
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames to time.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Of every model alike.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for bundles and results.")] = Path("runs/curve"),
) -> None:
    """Measure AP, operations and latency at several budgets."""
    exit_on_signals()  # so that an export, which is a process of its own, ends as well
    labelled = read_dataset(dataset)
    cv2.setNumThreads(threads)
    out.mkdir(parents=True, exist_ok=True)
    shares = share or [0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3]
    precisions = list(dict.fromkeys([BASE, *(precision or ["fp16", "int8"])]))
    made, found = [], []
    for entry in bundles(checkpoint, dense, load_recipe(recipe), shares, precisions, out):
        made.append(entry)
        found.append(_evaluated(entry, labelled, threads))
    files = {"checkpoint": checkpoint, "dense checkpoint": dense, "recipe": recipe}
    setting = setting_of(files, labelled)
    timing = time_bundles(made, labelled.videos[0].files[0].parent, frames, threads)
    setting["load average at the end"] = environment.describe()["load average"]
    setting["timing"] = f"{told(timing)}; {threads} threads"
    times = times_of(timing)
    points = []
    for (label, one, path), evaluation in zip(made, found, strict=True):
        manifest = read_manifest(path)
        gmacs = sum(stage.macs for stage in manifest.operations.values()) / 1e9
        timed = times.get(f"{label} {one}", (None, None))
        points.append(Point(label, one, kept_by(path), manifest.budgets, gmacs, evaluation, *timed))
    report(out / "curve.json", setting, [dataclasses.asdict(p) for p in points], rows(points))
    draw(points, out / "curve.png")
    print(f"\n{out}/curve.png is the picture, {out}/curve.json has the figures")


def _evaluated(entry: tuple[str, str, Path], dataset: Dataset, threads: int) -> Evaluated:
    label, precision, path = entry
    found = evaluated(path, dataset, threads, suited_exploration(read_manifest(path).pipeline))
    print(f"{label} {precision}: AP {found.figures.ap}", file=sys.stderr)
    return found


if __name__ == "__main__":
    typer.run(main)

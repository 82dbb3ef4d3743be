"""`vpp-deploy calibrate`: budgets from what the rule keeps of real footage."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from vpp_deploy.calibration.budgets import Proposal, for_coverage, for_saving, telling
from vpp_deploy.calibration.model import RuleModel, open_bundles_rule, open_checkpoints_rule
from vpp_deploy.calibration.page import GROUPS, render_page
from vpp_deploy.calibration.rule import KeptTokens, count_kept
from vpp_deploy.cli.arguments import parse_size
from vpp_deploy.cli.console import answer, note, only_answers, progress_console, say, show
from vpp_deploy.cli.opening import RecipeOption, SizeOption, ThreadsOption, is_checkpoint
from vpp_deploy.cli.signals import check_signals
from vpp_deploy.errors import printable
from vpp_deploy.profiling.writing import check_writable, write_aside
from vpp_deploy.recipe_files import write_recipe
from vpp_deploy.video.resize import plan_published
from vpp_deploy.video.source import open_source

_COVERAGE = 0.95
_QUANTILES = {"least": 0.0, "median": 0.5, "90 %": 0.9, "most": 1.0}

Counted = list[tuple[str, list[KeptTokens]]]


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A bundle, an engine or a checkpoint.")
    ],
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO", help="Video files or folders of images.")
    ],
    coverage: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help=f"Share of the frames of which nothing shall be cut [{_COVERAGE:g}].",
        ),
    ] = None,
    saving: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="Share of the tokens to leave out, of all blocks."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="At most so many of each video.")
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Take every Nth frame.")] = 1,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where a bundle's checkpoint is now, if it was moved.")
    ] = None,
    recipe: RecipeOption = None,
    size: SizeOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The recipe to write; default: MODEL-calibrated.toml."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Count the tokens that MODEL's own rule keeps of each VIDEO, and write a recipe that fits.

    The rule is the checkpoint's, and PyTorch runs it: of a bundle, that of its checkpoint.

    Example: vpp-deploy calibrate export/tiny-40 street.mp4 --coverage 0.95 --html picture.html
    """
    if coverage is not None and saving is not None:
        raise typer.BadParameter("--coverage and --saving both set the budgets; give one")
    if as_json:
        only_answers()
    of_checkpoint = is_checkpoint(model)
    for option, value, fits in (
        ("--recipe", recipe, of_checkpoint),
        ("--size", size, of_checkpoint),
        ("--checkpoint", checkpoint, not of_checkpoint),
    ):
        if value is not None and not fits:
            kind = "a bundle or an engine" if of_checkpoint else "a checkpoint"
            raise typer.BadParameter(f"{option} is for {kind}, and {model} is none")
    target = out or Path(f"{model.resolve().stem}-calibrated.toml")
    for path in (target, *([html] if html else [])):
        check_writable(path)
    rule = _open(model, videos, checkpoint, recipe, size)
    if threads is not None:
        rule.use_threads(threads)
    counted = _count(rule, videos, frames, stride)
    counts_n3 = telling([frame for _, kept in counted for frame in kept])
    if saving is None:
        wanted = _COVERAGE if coverage is None else coverage
        proposal = for_coverage(counts_n3, wanted, rule.num_tokens, rule.map_tokens)
    else:
        proposal = for_saving(counts_n3, saving, rule.num_tokens, rule.map_tokens)
    write_aside(target, write_recipe(rule.recipe_with(proposal.shares)))
    if html is not None:
        write_aside(html, render_page(rule.name, counted, counts_n3, proposal, rule.num_tokens))
    _report(rule, counted, counts_n3, proposal, target, as_json=as_json)


def _open(
    model: Path, videos: list[Path], checkpoint: Path | None, recipe: Path | None, size: str | None
) -> RuleModel:
    if not is_checkpoint(model):
        return open_bundles_rule(model, checkpoint)
    if size is not None:
        return open_checkpoints_rule(model, recipe, parse_size(size))
    with open_source(videos[0]) as source:
        return open_checkpoints_rule(model, recipe, plan_published(*source.frame_size).padded)


def _count(rule: RuleModel, videos: list[Path], most: int | None, stride: int) -> Counted:
    counted: Counted = []
    stop = None if most is None else most * stride
    console = progress_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for path in videos:
            with open_source(path, 0, stop, stride) as source:
                task = bar.add_task(escape(printable(path.name)), total=source.num_frames)
                kept = []
                for frame in count_kept(rule.runner, source):
                    check_signals()
                    kept.append(frame)
                    bar.advance(task)
            counted.append((printable(path.name), kept))
    return counted


def _report(
    rule: RuleModel,
    counted: Counted,
    counts_n3: NDArray[np.int64],
    proposal: Proposal,
    target: Path,
    *,
    as_json: bool,
) -> None:
    frames = [frame for _, kept in counted for frame in kept]
    quantiles = {
        name: np.quantile(counts_n3, q, axis=0, method="inverted_cdf").tolist()
        for name, q in _QUANTILES.items()
    }
    overruled = sum(frame.overruled for frame in frames)
    now = None if rule.budgets is None else dataclasses.astuple(rule.budgets)
    proposed = dataclasses.astuple(proposal.budgets)
    if as_json:
        document = {
            "model": rule.name,
            "frames": {name: len(kept) for name, kept in counted},
            "first_frames": sum(frame.first for frame in frames),
            "frames_overruled": overruled,
            "num_tokens": rule.num_tokens,
            "rule": quantiles,
            "budgets": now,
            "proposed": proposed,
            "shares": dataclasses.asdict(proposal.shares),
            "kept": proposal.kept,
            "coverage": proposal.coverage,
            "recipe": str(target),
        }
        answer(json.dumps(document))
        return
    table = Table(
        title=escape(f"{rule.name}: tokens of {rule.num_tokens}, {len(counts_n3)} frames")
    )
    columns = ("", *quantiles, *(["now"] if now else []), "proposed", "covers")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for i, group in enumerate(GROUPS):
        cells = [str(int(values[i])) for values in quantiles.values()]
        cells += [str(now[1 + i])] if now else []
        table.add_row(group, *cells, str(proposed[1 + i]), f"{proposal.coverage[i]:.1%}")
    show(table)
    say(
        f"{target}: tokens {'/'.join(map(str, proposed))}, {proposal.kept:.1%} of the patches "
        f"averaged over the blocks; nothing is cut in {proposal.coverage[3]:.1%} of the frames"
    )
    if overruled:
        note(
            f"{overruled} frames are left out: the frame before kept no token, so the published "
            "rule keeps everything"
        )

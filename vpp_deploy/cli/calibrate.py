"""`vpp-deploy calibrate`: budgets from what the rule keeps of real footage."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
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
from vpp_deploy.cli.console import answer, note, only_answers, progress_console, say, show
from vpp_deploy.cli.opening import (
    ModelOptions,
    RecipeOption,
    SizeOption,
    ThreadsOption,
    is_checkpoint,
)
from vpp_deploy.cli.signals import check_signals
from vpp_deploy.errors import VideoError, printable
from vpp_deploy.manifests import read_manifest
from vpp_deploy.profiling.writing import check_writable, write_aside
from vpp_deploy.recipe_files import write_recipe
from vpp_deploy.runtime.job import check_folders, output_folders
from vpp_deploy.video.image_folder import image_files
from vpp_deploy.video.live_address import live_address
from vpp_deploy.video.resize import plan_for_input, plan_published
from vpp_deploy.video.source import VideoSource, open_source

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
    written = [target] if html is None else [target, html]
    _check_videos(videos, frames)
    exported_from = None if of_checkpoint else Path(read_manifest(model).checkpoint)
    read = (model, checkpoint, exported_from, recipe, *videos)
    _check_apart(written, [path for path in read if path is not None])
    check_folders(path.parent for path in written)
    for path in written:
        check_writable(path)
    rule = _open(model, videos[0], checkpoint, ModelOptions(None, threads, None, recipe, size))
    if threads is not None:
        rule.use_threads(threads)
    counted, notes = _count(rule, videos, frames, stride)
    counts_n3 = telling([frame for _, kept in counted for frame in kept])
    if saving is None:
        wanted = _COVERAGE if coverage is None else coverage
        proposal = for_coverage(counts_n3, wanted, rule.num_tokens, rule.map_tokens)
    else:
        proposal = for_saving(counts_n3, saving, rule.num_tokens, rule.map_tokens)
    write_aside(target, write_recipe(rule.recipe_with(proposal.shares)))
    if html is not None:
        write_aside(html, render_page(rule.name, counted, counts_n3, proposal, rule.num_tokens))
        say(f"written: {html}")
    _report(rule, counted, counts_n3, proposal, target, notes, as_json=as_json)
    for text in notes:
        note(text)


def _check_apart(written: Sequence[Path], read: Sequence[Path]) -> None:
    taken = {path.resolve() for path in read}
    taken |= {image.resolve() for path in read if path.is_dir() for image in image_files(path)}
    for path in written:
        if path.resolve() in taken:
            raise typer.BadParameter(
                f"{path} would be overwritten; name another file with --out or --html"
            )
        taken.add(path.resolve())


def _check_videos(videos: Sequence[Path], most: int | None) -> None:
    """Opens each, so that what cannot be read is told before anything runs.

    A pipe is left alone: it can be opened once only.

    Raises:
        VideoError: one cannot be read, or has no end.
    """
    for path in videos:
        if path.is_file() or path.is_dir() or not path.exists():
            with open_source(path):
                pass
        elif live_address(str(path)) and most is None:
            raise VideoError(f"{path} has no end; say with --frames how many to take")


def _open(model: Path, video: Path, checkpoint: Path | None, options: ModelOptions) -> RuleModel:
    if not is_checkpoint(model):
        return open_bundles_rule(model, checkpoint)
    size = options.input_size
    if size is None:
        if not (video.is_file() or video.is_dir()):
            raise VideoError(f"{video} can be opened once only; give --size or --recipe as well")
        with open_source(video) as source:
            size = plan_published(*source.frame_size).padded
    return open_checkpoints_rule(model, options.recipe, size)


def _count(
    rule: RuleModel, videos: list[Path], most: int | None, stride: int
) -> tuple[Counted, list[str]]:
    """What the rule kept of each video, and notes of what could not be read."""
    counted: Counted = []
    notes: list[str] = []
    names = output_folders([printable(path.resolve().name) for path in videos], Path())
    stop = None if most is None else most * stride
    console = progress_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for path, name in zip(videos, map(str, names), strict=True):
            with open_source(path, 0, stop, stride) as source:
                task = bar.add_task(escape(name), total=source.num_frames)
                kept = []
                for frame in count_kept(rule.runner, source):
                    check_signals()
                    kept.append(frame)
                    bar.advance(task)
            counted.append((name, kept))
            notes += (f"{name}: {text}" for text in (*_unread(source), *_boxed(source, rule)))
    return counted, notes


def _unread(source: VideoSource) -> Iterator[str]:
    if source.truncated:
        yield "ends early; it is truncated or damaged, or its header promises more than it holds"
    if source.frames_skipped_corrupt:
        yield f"{source.frames_skipped_corrupt} corrupt packets or images were skipped"
    if source.frames_damaged:
        yield f"{source.frames_damaged} frames were decoded with visible damage"


def _boxed(source: VideoSource, rule: RuleModel) -> Iterator[str]:
    height, width = source.frame_size
    size = (rule.recipe.height, rule.recipe.width)
    if not plan_for_input(height, width, size).published:
        yield (
            f"frames of {width}x{height} are letterboxed into {size[0]}x{size[1]}, which is not "
            "the published preprocessing; the counts hold for this input alone"
        )


def _report(
    rule: RuleModel,
    counted: Counted,
    counts_n3: NDArray[np.int64],
    proposal: Proposal,
    target: Path,
    notes: Sequence[str],
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
            "notes": notes,
        }
        answer(json.dumps(document))
        return
    table = Table(
        title=escape(
            f"{rule.name}: tokens of {rule.num_tokens}, input {rule.recipe.height}x"
            f"{rule.recipe.width}, {len(counts_n3)} frames"
        )
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

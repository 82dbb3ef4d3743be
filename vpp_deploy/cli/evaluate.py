"""`vpp-deploy eval`: AP and AR of a model on a labelled dataset."""

import json
from collections.abc import Iterable
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vpp_deploy.cli.console import answer, note, only_answers, say, show
from vpp_deploy.cli.opening import (
    BackendOption,
    ExplorationOption,
    ModelOptions,
    RecipeOption,
    RuleOption,
    SizeOption,
    ThreadsOption,
    describe,
    open_model,
)
from vpp_deploy.cli.progress import FramesBar
from vpp_deploy.cli.signals import held
from vpp_deploy.errors import printable
from vpp_deploy.evaluation.dataset import read_dataset
from vpp_deploy.evaluation.evaluator import Figures
from vpp_deploy.evaluation.run import EVALUATION, Evaluation, Row
from vpp_deploy.evaluation.run import evaluate as evaluate_model
from vpp_deploy.runtime.run_files import RESULTS
from vpp_deploy.runtime.stream import ResetPolicy


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE|ENGINE", help="A bundle, an engine or a checkpoint."),
    ],
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A folder in YouTube-VIS's layout (JPEGImages/ and instances.json or "
            "annotations.json), or its JSON file.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; default: JPEGImages beside the JSON file."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder to write {RESULTS} and {EVALUATION} into.")
    ] = None,
    shared_classes: Annotated[
        bool,
        typer.Option(
            "--shared-classes", help="Leave out the classes that only model or dataset has."
        ),
    ] = False,
    backend: BackendOption = None,
    threads: ThreadsOption = None,
    rule: RuleOption = None,
    recipe: RecipeOption = None,
    size: SizeOption = None,
    refresh_every: Annotated[
        int | None,
        typer.Option(min=1, help="Every so many frames, run all patches in blocks 1-2."),
    ] = None,
    exploration: ExplorationOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a model over a labelled DATASET: AP, AP50, AP75, AR1 and AR10, by class and by video.

    The figures are those of YouTube-VIS's evaluator, which the extra `eval` installs. As in the
    published evaluation, scene cuts are not looked for.

    Example: vpp-deploy eval export/tiny-40 ytvis/valid --out runs/valid
    """
    if as_json:
        only_answers()
    options = ModelOptions(backend, threads, rule, recipe, size)
    options.check([model])
    labelled = read_dataset(dataset, images)
    opened = open_model(model, options, labelled.videos[0].size)
    policy = ResetPolicy(refresh_every=refresh_every)
    session = opened.session(opened.explored_by(exploration), policy)
    say(describe(model, opened, session))
    with FramesBar(labelled.num_frames, len(labelled.videos)) as bar:
        evaluation = evaluate_model(
            opened,
            session,
            labelled,
            out=out,
            shared_only=shared_classes,
            on_frame=bar.advance,
            whole=held,
        )
    if as_json:
        answer(json.dumps(asdict(evaluation)))
    else:
        _print(evaluation, out)


def _print(evaluation: Evaluation, out: Path | None) -> None:
    title = f"{evaluation.model} on {evaluation.dataset}, percent"
    everything = Row("all", evaluation.num_instances, evaluation.figures)
    show(_table(title, [[everything], evaluation.classes, evaluation.videos]))
    height, width = evaluation.input_size
    say(
        f"{evaluation.num_videos} videos, {evaluation.num_frames} frames at {height}x{width}, "
        f"{evaluation.num_instances} instances, {evaluation.num_tracks} tracks found"
        + (f"; {RESULTS} and {EVALUATION} in {out}/" if out else "")
    )
    for text in evaluation.notes:
        note(text)


def _table(title: str, sections: Iterable[Iterable[Row]]) -> Table:
    table = Table(title=escape(printable(title)))
    table.add_column("", overflow="fold")
    for column in ("instances", "AP", "AP50", "AP75", "AR1", "AR10"):
        table.add_column(column, justify="right")
    for rows in sections:
        for row in rows:
            name = escape(printable(row.name))
            table.add_row(name, str(row.instances), *_cells(row.figures))
        table.add_section()
    return table


def _cells(figures: Figures) -> list[str]:
    return ["-" if value is None else f"{100 * value:.1f}" for value in astuple(figures)]

"""`vpp-deploy inspect`: what a bundle, an engine, a checkpoint or a recipe is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vpp_deploy.cli.console import answer, note, progress_console, say, show
from vpp_deploy.cli.opening import RecipeOption, is_checkpoint
from vpp_deploy.errors import printable
from vpp_deploy.inspection.facts import (
    CheckpointFacts,
    Facts,
    ModelFacts,
    RecipeFacts,
    StageFacts,
    to_json,
)
from vpp_deploy.inspection.paths import inspect_path
from vpp_deploy.specs import TensorSpec


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, an engine, a checkpoint or a recipe.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    tensors: Annotated[
        bool, typer.Option(help="Show what goes into each stage and comes out of it.")
    ] = True,
    recipe: RecipeOption = None,
) -> None:
    """Show what is at PATH: sizes, budgets, classes, stages, operations, and where it is from.

    A checkpoint is also tried with the recipe that fits it, which tells what is missing to export
    it. Nothing is run.

    Example: vpp-deploy inspect export/tiny-40
    """
    if recipe is not None and not is_checkpoint(path):
        raise typer.BadParameter(f"--recipe is for a checkpoint, and {path} is none")
    with progress_console().status("reading"):
        facts = inspect_path(path, recipe)
    if as_json:
        answer(to_json(facts))
        return
    _print(facts, tensors)


def _print(facts: Facts, tensors: bool) -> None:
    match facts:
        case ModelFacts():
            say(f"{facts.path}: {facts.kind}, {_megabytes(facts.bytes)}")
            show(_pairs(_of_model(facts)))
            show(_stages(facts.stages))
            if tensors:
                show(_tensors(facts.stages))
            for text in facts.notes:
                note(text)
        case CheckpointFacts():
            say(f"{facts.path}: {facts.kind}, {_megabytes(facts.bytes)}")
            show(_pairs(_of_checkpoint(facts)))
            show(_modules(facts))
        case RecipeFacts():
            say(f"{facts.path}: {facts.kind}")
            show(_pairs(_of_recipe(facts)))


Pairs = Iterable[tuple[str, object]]


def _of_model(facts: ModelFacts) -> Pairs:
    yield "name", facts.name
    yield "written", facts.written
    yield "computes in", f"{facts.precision}, for the {facts.target.upper()}"
    height, width = facts.input_size
    yield "input", f"{height}x{width}, batch {facts.batch}, {facts.num_tokens} tokens a frame"
    shares = ", ".join(f"{share:.0%}" for share in facts.budget_shares)
    yield "budgets", f"{_tokens(facts.budgets)} ({shares})" if shares else "dense: every token runs"
    yield "queries", f"{facts.num_queries} static, {facts.track_slots} track slots"
    yield "classes", _classes(facts.classes)
    yield "model", _values(facts.model, hidden=("classes",))
    if facts.engine is not None:
        engine = facts.engine
        yield "built by", f"{engine.backend} {engine.version}"
        driver = "" if engine.driver is None else f", driver {engine.driver}"
        where = "ahead of time, on no GPU" if engine.gpu is None else f"{engine.gpu}{driver}"
        yield "built on", where
        yield "runs on", "compute capability " + ", ".join(engine.architectures)
        yield "largest frame", "x".join(map(str, engine.max_frame_size))
    yield "checkpoint", facts.checkpoint
    yield "its SHA-256", facts.checkpoint_sha256
    yield "exported with", _values(facts.versions)
    if facts.kind == "bundle":
        yield "verification", _verification(facts.verification)


def _verification(seen: dict[str, object] | None) -> str:
    """What it says; a manifest may hold anything here."""
    if seen is None:
        return "none: not compared with PyTorch"
    text = f"{seen.get('runner')} against PyTorch, {seen.get('frames')} frames"
    shares, ratios = seen.get("equal_tokens"), seen.get("rms_share_of_spread")
    if isinstance(shares, dict) and (numbers := _numbers(shares)):
        text += f"; equal tokens {min(numbers):.2%} or more"
    if isinstance(ratios, dict) and (numbers := _numbers(ratios)):
        text += f"; RMS of differences at most {max(numbers):.1e} of the spread"
    return text


def _numbers(values: dict[object, object]) -> list[float]:
    return [value for value in values.values() if isinstance(value, int | float)]


def _of_checkpoint(facts: CheckpointFacts) -> Pairs:
    yield "format", "safetensors" if facts.format == "safetensors" else "torch (zip)"
    yield "SHA-256", facts.sha256
    yield "model", _kind_of_model(facts)
    yield "keep ratio", facts.keep_ratio
    yield "classes", None if facts.classes is None else _classes(facts.classes)
    yield "weights", f"{facts.num_tensors} tensors, {_values(facts.dtypes)}"
    yield "beside them", ", ".join(facts.holds)
    yield "training", _values(facts.training)
    yield "sizes", None if facts.model is None else _values(facts.model, hidden=("classes",))
    yield "recipe", facts.recipe
    yield "its budgets", None if facts.budgets is None else _tokens(facts.budgets)
    yield "export", facts.missing or "nothing is missing"


def _kind_of_model(facts: CheckpointFacts) -> str:
    if facts.width is None:
        return "no ViT-Adapter that is known here"
    return f"{facts.size or 'of another size'} (width {facts.width}), " + (
        "pruned" if facts.pruned else "dense"
    )


def _of_recipe(facts: RecipeFacts) -> Pairs:
    for name, value in facts.values.items():
        if isinstance(value, dict):
            yield name, _values(value)
        else:
            yield name, _value(value)
    yield "tokens a frame", facts.num_tokens
    yield "budgets in tokens", None if facts.budgets is None else _tokens(facts.budgets)


def _pairs(pairs: Pairs) -> Table:
    """Two columns, without what is not known."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, ""):
            table.add_row(f"  {name}", _cell(str(value)))
    return table


def _stages(stages: tuple[StageFacts, ...]) -> Table:
    table = Table()
    for column in ("stage", "file", "MB", "parameters", "GMAC", "GMAC, first frame"):
        table.add_column(column, justify="left" if column in ("stage", "file") else "right")
    for s in stages:
        table.add_row(_cell(s.name), _cell(s.file), *_stage_cells(s))
    table.add_section()
    counts = [s.parameters for s in stages if s.parameters is not None]
    whole = (
        _number(sum(s.bytes for s in stages) / 1e6),
        f"{sum(counts):,}" if len(counts) == len(stages) else "-",
        _number(sum(s.macs for s in stages) / 1e9),
        _number(sum(s.macs_first_frame for s in stages) / 1e9),
    )
    table.add_row("all", "", *whole)
    return table


def _stage_cells(stage: StageFacts) -> Iterable[str]:
    yield _number(stage.bytes / 1e6)
    yield "-" if stage.parameters is None else f"{stage.parameters:,}"
    yield _number(stage.macs / 1e9)
    yield _number(stage.macs_first_frame / 1e9)


def _tensors(stages: tuple[StageFacts, ...]) -> Table:
    table = Table("stage", "", "tensor", "type", "shape", caption="? varies from call to call")
    for s in stages:
        rows = [("in", tensor) for tensor in s.inputs] + [("out", t) for t in s.outputs]
        for number, (way, tensor) in enumerate(rows):
            name = _cell(s.name) if number == 0 else ""
            cells = _cell(tensor.name), _cell(tensor.dtype), _shape(tensor)
            table.add_row(name, way, *cells, end_section=number == len(rows) - 1)
    return table


def _modules(facts: CheckpointFacts) -> Table:
    table = Table("module")
    table.add_column("parameters", justify="right")
    for module, count in facts.modules.items():
        table.add_row(_cell(module), f"{count:,}")
    table.add_section()
    table.add_row("all", f"{facts.parameters:,}")
    return table


def _cell(text: str) -> str:
    """As it is: neither markup nor control characters, which a file may have brought in."""
    return escape(printable(text))


def _shape(tensor: TensorSpec) -> str:
    return " x ".join("?" if size == -1 else str(size) for size in tensor.shape) or "one number"


def _classes(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names)}"


def _tokens(budgets: tuple[int, ...]) -> str:
    return "/".join(map(str, budgets))


def _values(values: Mapping[str, object], hidden: tuple[str, ...] = ()) -> str:
    shown = {name: v for name, v in values.items() if name not in hidden and v is not None}
    return ", ".join(f"{name} {_value(value)}" for name, value in shown.items())


def _value(value: object) -> object:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else value


def _number(value: float) -> str:
    return f"{value:,.3g}" if value < 10 else f"{value:,.1f}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

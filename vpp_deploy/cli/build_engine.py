"""`vpp-deploy build-engine`: a bundle to TensorRT engines."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vpp_deploy.cli.arguments import choice, parse_frame_size
from vpp_deploy.cli.console import (
    answer,
    note,
    only_answers,
    progress_console,
    say,
    show,
    telling,
)
from vpp_deploy.engines.architectures import parse_sm
from vpp_deploy.engines.build import EngineFolder, build_engines, export_option
from vpp_deploy.engines.recipes import BACKENDS, EngineRecipe, load_engine_recipe
from vpp_deploy.engines.target import Gpu, Target, choose_target
from vpp_deploy.errors import BackendError, BundleError, RecipeError
from vpp_deploy.inspection.facts import to_json
from vpp_deploy.inspection.models import inspect_model
from vpp_deploy.manifests import MANIFEST_NAME, Manifest, read_manifest
from vpp_deploy.runtime.backends import MODULES, import_tensorrt
from vpp_deploy.runtime.opening import newest_model
from vpp_deploy.runtime.probes import run_probe

_DEFAULT_PRECISION = "fp16"


def build_engine(
    bundle: Annotated[
        Path | None, typer.Argument(help="An exported bundle; default: the newest in export/.")
    ] = None,
    fp16: Annotated[
        bool,
        typer.Option("--fp16", help="Half precision; default unless BUNDLE is for GPUs already."),
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="float32, without TF32.")] = False,
    backend: Annotated[
        str | None,
        choice(BACKENDS, "Library that builds and runs them; default: tensorrt if it is there."),
    ] = None,
    sm: Annotated[
        str | None,
        typer.Option(
            metavar="NN,...",
            help="Architectures to build for with tensorrt-rtx, which needs no GPU: 86,89 for RTX "
            "30 and 40; default: 80,86,89,120, or this GPU's own.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the engines; default: engines/BUNDLE.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file, as in engines/; the options here go first.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="What BUNDLE was exported from, where its graphs have to be made anew."),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Compare graphs that are made anew with PyTorch in fp32.")
    ] = True,
    workspace: Annotated[
        int | None, typer.Option(metavar="MB", help="Most scratch memory on the device.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Optimisation level of the builder.")
    ] = None,
    max_frame_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Largest frames to make masks for; default: 2160x3840."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what `inspect --json` prints of the engines.")
    ] = False,
) -> None:
    """Build TensorRT engines from BUNDLE: one a stage, with a manifest, in one folder.

    Precision is in the graphs: where BUNDLE's are in another one, or for the CPU, graphs are made
    first, from the checkpoint, into a bundle beside it.

    Example: vpp-deploy build-engine export/tiny-40 --fp16
    """
    precisions = [n for n, on in (("fp16", fp16), ("bf16", bf16), ("fp32", fp32)) if on]
    if len(precisions) > 1:
        raise typer.BadParameter("--fp16, --bf16 and --fp32 set the precision; give one")
    if as_json:
        only_answers()
    wanted = EngineRecipe() if recipe is None else load_engine_recipe(recipe)
    try:
        asked = {
            "backend": backend,
            "precision": precisions[0] if precisions else None,
            "architectures": None if sm is None else parse_sm(sm),
            "workspace_mb": workspace,
            "level": level,
            "max_frame_size": None if max_frame_size is None else parse_frame_size(max_frame_size),
        }
        said = {name: value for name, value in asked.items() if value is not None}
        wanted = dataclasses.replace(wanted, **said)  # type: ignore[arg-type]
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error
    start = time.perf_counter()
    bundle = bundle or _newest_bundle()
    manifest = read_manifest(bundle)
    precision = wanted.precision or _own_precision(manifest)
    chosen = wanted.backend or _installed_backend()
    if find_spec(MODULES[chosen]) is None:
        raise BackendError(f"{MODULES[chosen]} is not installed; install vpp-deploy[{chosen}]")
    # Classic TensorRT must not even be tried without a GPU.
    target = choose_target(chosen, wanted.architectures, _this_gpu())
    trt = import_tensorrt(chosen)
    with telling("looking at the bundle") as tell:
        bundle = _typed_bundle(bundle, manifest, precision, checkpoint, verify, tell)
    folder = out or Path("engines") / bundle.resolve().name
    replaced = ", in place of those that were there" if folder.exists() else ""
    named = ", ".join(target.architectures)
    say(f"{bundle} by {chosen} {trt.__version__} for {named} to {folder}")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = progress_console()
    shown = console.is_terminal  # elsewhere an empty line would be left
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=None)

        def advance(stage: str, phase: str, done: int, total: int) -> None:
            text = f"{stage}: {phase}"
            bar.update(task, description=escape(text), completed=done, total=total)

        built = build_engines(trt, bundle, folder, target, wanted, advance)
    if as_json:
        answer(to_json(inspect_model(folder)))
        return
    _print(built, target, f"{time.perf_counter() - start:.0f} s{replaced}")


def _newest_bundle() -> Path:
    if not any(Path("export").glob(f"*/{MANIFEST_NAME}")):
        raise BundleError(
            "no bundle in export/; make one with `vpp-deploy export CHECKPOINT`, or name one: "
            "`vpp-deploy build-engine BUNDLE`"
        )
    return newest_model((Path("export"),))


def _own_precision(manifest: Manifest) -> str:
    return manifest.precision if manifest.target == "gpu" else _DEFAULT_PRECISION


def _installed_backend() -> str:
    for backend in BACKENDS:
        if find_spec(MODULES[backend]) is not None:
            return backend
    raise BackendError(
        "no library that builds engines is installed; install vpp-deploy[tensorrt] on the machine "
        "whose GPU is to run them, or vpp-deploy[tensorrt-rtx], which builds without a GPU, too"
    )


def _this_gpu() -> Gpu | None:
    """The first GPU, asked for in a process of its own: a broken driver may crash who asks."""
    found = run_probe("gpu")
    if not found.get("gpus"):
        return None
    first = found["gpus"][0]
    return Gpu(first["name"], first["architecture"], found.get("driver"))


def _typed_bundle(
    bundle: Path,
    manifest: Manifest,
    precision: str,
    checkpoint: Path | None,
    verify: bool,
    progress: Callable[[str], None],
) -> Path:
    """`bundle` if its graphs are such, else the one that is made beside it."""
    if (manifest.target, manifest.precision) == ("gpu", precision) or manifest.engine is not None:
        return bundle
    try:
        from vpp_deploy.export.typed import gpu_bundle
        from vpp_deploy.parity import MIN_FRAMES, BundleVerifier
    except ImportError as error:
        raise BackendError(
            f"{bundle} has no graphs in {precision} for GPUs, and making them needs {error.name}, "
            "which is not installed; install vpp-deploy[export,cpu], or make them elsewhere with "
            f"`vpp-deploy export CHECKPOINT {export_option(precision)}`"
        ) from error
    verifier = partial(BundleVerifier, num_frames=MIN_FRAMES) if verify else None
    return gpu_bundle(bundle, precision, checkpoint, progress, verifier)


def _print(built: EngineFolder, target: Target, ending: str) -> None:
    manifest = built.manifest
    assert manifest.engine is not None
    table = Table(title=f"{built.folder}")
    seen = any(inspected is not None for inspected in built.inspected.values())
    for column in (
        "stage",
        "seconds",
        "MB",
        "graph's layers",
        *(["engine's layers"] if seen else []),
    ):
        left = column == "stage" or "layers" in column
        table.add_column(column, justify="left" if left else "right")
    for stage, file in manifest.files.items():
        table.add_row(
            stage,
            f"{manifest.engine.build_s[stage]:.1f}",
            f"{(built.folder / file).stat().st_size / 1e6:.1f}",
            _counted(manifest.engine.layers[stage]),
            *([_counted(built.inspected[stage] or {})] if seen else []),
        )
    show(table)
    alone = target.gpu is None or target.ahead_of_time
    where = "ahead of time, on no GPU" if alone else f"on {manifest.engine.gpu}"
    if target.gpu is not None and not seen:
        note(
            "the library does not say what the engines' layers compute in; what was checked is its "
            "network"
        )
    say(
        f"{built.folder}: {len(manifest.files)} engines, {manifest.precision}, "
        f"{manifest.engine.backend} {manifest.engine.version}, for "
        f"{', '.join(target.architectures)}, built {where}; {ending}"
    )


def _counted(layers: dict[str, int]) -> str:
    """Floating-point types alone: the others are positions and shapes."""
    counts = {name: count for name, count in layers.items() if "float" in name}
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))

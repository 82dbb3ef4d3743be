"""`vpp-deploy export`: a checkpoint to a bundle of ONNX graphs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vpp_deploy.cli.arguments import check_size, choice, parse_size
from vpp_deploy.cli.console import answer, only_answers, say, show, telling
from vpp_deploy.errors import BackendError
from vpp_deploy.inspection.facts import to_json
from vpp_deploy.inspection.models import inspect_model
from vpp_deploy.specs import TARGETS
from vpp_deploy.video.resize import plan_published
from vpp_deploy.video.source import open_source

if TYPE_CHECKING:
    from vpp_deploy.parity_report import ParityReport


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth or .safetensors file.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="TOML file; default: the one in export/ made for such a checkpoint."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", callback=check_size, help="Input size in place of the recipe's."
        ),
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Take the input size for this video's frames.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle; default: export/RECIPE.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the linear layers: faster on a CPU, not exact.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Half precision, for GPUs; `build-engine` takes it.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Likewise, in bfloat16.")] = False,
    target: Annotated[
        str | None,
        choice(TARGETS, "What the graphs are written for; default: by precision."),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Compare the graphs with PyTorch over a sequence of frames.")
    ] = True,
    verify_frames: Annotated[int, typer.Option(min=5, max=10_000, help="Frames to compare.")] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what `inspect --json` prints of the bundle.")
    ] = False,
) -> None:
    """Export CHECKPOINT to ONNX: its graphs and a manifest in one folder.

    Example: vpp-deploy export vpp_tiny.pth --recipe export/tiny-40.toml --like street.mp4
    """
    if size is not None and like is not None:
        raise typer.BadParameter("--size and --like both set the input size; give one")
    precisions = [n for n, on in (("int8", int8), ("fp16", fp16), ("bf16", bf16)) if on]
    if len(precisions) > 1:
        raise typer.BadParameter("--int8, --fp16 and --bf16 set the precision; give one")
    if as_json:
        only_answers()
    try:
        from vpp_deploy.export.bundle import export_bundle
        from vpp_deploy.parity import BundleVerifier
        from vpp_deploy.partition.prepare import prepare_budgets
    except ImportError as error:
        raise BackendError(
            f"exporting needs {error.name}, which is not installed; install vpp-deploy[export,cpu]"
        ) from error

    start = time.perf_counter()
    input_size = None if size is None else parse_size(size)
    if like is not None:
        with open_source(like) as source:
            input_size = plan_published(*source.frame_size).padded
    with telling("reading the checkpoint") as tell:
        precision = precisions[0] if precisions else None
        prepared = prepare_budgets(checkpoint, recipe, input_size, precision, target)
        assert prepared.recipe_path is not None
        suffixes = [*precisions] or (["fp32"] if target == "gpu" else [])
        folder = out or Path("export") / "-".join((prepared.recipe_path.stem, *suffixes))
        replaced = ", in place of the one that was there" if folder.exists() else ""
        say(f"{checkpoint} by {prepared.recipe_path} to {folder}")
        verifier = BundleVerifier(prepared, verify_frames if verify else None, like)
        bundle = export_bundle(prepared, folder, verify=verifier, progress=tell)
    if as_json:
        answer(to_json(inspect_model(folder)))
        return
    if verifier.report is not None:
        print_report(verifier.report)
    manifest = bundle.manifest
    height, width = manifest.preprocessing.input_size
    megabytes = sum((bundle.folder / f).stat().st_size for f in manifest.sha256) / 1e6
    budgets = "/".join(map(str, manifest.budgets)) or "all"
    say(
        f"{bundle.folder}: {len(manifest.files)} graphs for the {manifest.target.upper()}, "
        f"{megabytes:.0f} MB, {manifest.precision}, "
        f"input {height}x{width}, batch {manifest.batch}, tokens {budgets} of "
        f"{(height // 16) * (width // 16)}, {manifest.track_slots} track slots; "
        f"{time.perf_counter() - start:.0f} s{replaced}"
    )


def print_report(report: "ParityReport") -> None:
    """A table of what a comparison saw."""
    table = Table(title=f"{report.runner} against PyTorch in fp32, {report.frames} frames")
    table.add_column("output")
    table.add_column("largest difference", justify="right")
    table.add_column("of its spread", justify="right")
    table.add_column("RMS", justify="right")
    table.add_column("equal tokens", justify="right")
    for name, share in report.equal_tokens.items():
        table.add_row(name, "", "", "", f"{share:.2%}")
    for name, d in report.outputs.items():
        table.add_row(name, f"{d.largest:.1e}", f"{d.ratio:.1e}", f"{d.rms_ratio:.1e}", "")
    show(table)

"""From a bundle to the graphs that an engine of some precision is built from.

Precision is decided in PyTorch, when a graph is exported: which parts stay in float32 is written
where the model is (`vpp_deploy/models/precision.py`), and nothing downstream has to guess. So these
graphs come from the checkpoint, not from the bundle's own; the bundle says everything else.
"""

from collections.abc import Callable
from pathlib import Path

from vpp_deploy.errors import BundleError, CheckpointError, ExportError
from vpp_deploy.export.bundle import Progress, Verify, export_bundle, library_versions
from vpp_deploy.manifests import Manifest, hash_file, read_manifest
from vpp_deploy.partition.prepare import Prepared, prepare_again


def gpu_bundle(
    folder: Path,
    precision: str,
    checkpoint: Path | None,
    progress: Progress = lambda _: None,
    verifier: Callable[[Prepared], Verify] | None = None,
) -> Path:
    """The bundle for GPUs in this precision: `folder`, or one made beside it from the checkpoint.

    Args:
        folder: an exported bundle.
        precision: "fp32", "fp16" or "bf16".
        checkpoint: what `folder` was exported from; None looks where it was then.
        progress: told what is being done.
        verifier: makes what a new bundle is verified by.

    Raises:
        BundleError: `folder` is no bundle.
        CheckpointError: the checkpoint is not the bundle's.
        ExportError: the checkpoint is not found, the graphs cannot be made, or another bundle is
            where they would be.
    """
    manifest = read_manifest(folder)
    if manifest.engine is not None:
        raise BundleError(f"{folder} holds engines already; name the bundle they were built from")
    if (manifest.target, manifest.precision) == ("gpu", precision):
        return folder
    folder = folder.resolve()
    suffix = f"-{manifest.precision}" if manifest.target == "gpu" else ""
    made = folder.with_name(f"{folder.name.removesuffix(suffix)}-{precision}")
    if checkpoint is not None:
        _check_is(checkpoint, manifest)
    if made.exists() and _is_current(made, manifest, precision, verifier is not None):
        return _shown(made)
    path = checkpoint or Path(manifest.checkpoint)
    if not path.is_file():
        raise ExportError(
            f"graphs in {precision} are made from the checkpoint, as precision is decided in "
            f"PyTorch, and {path.resolve()} is not there; name the file that {folder.name} was "
            "exported from with --checkpoint"
        )
    progress(f"reading {path}")
    prepared = prepare_again(path, manifest, precision, "gpu")
    verify = None if verifier is None else verifier(prepared)
    return _shown(export_bundle(prepared, made, verify=verify, progress=progress).folder)


def _check_is(checkpoint: Path, manifest: Manifest) -> None:
    """Raises a `CheckpointError` if a file that was named is not the bundle's checkpoint."""
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint} is not there; name the file with --checkpoint")
    if hash_file(checkpoint) != manifest.checkpoint_sha256:
        raise CheckpointError(
            f"{checkpoint} is not the checkpoint that {manifest.name} was exported from (its "
            "SHA-256 differs); name that one, or export the bundle again"
        )


def _is_current(made: Path, manifest: Manifest, precision: str, verified: bool) -> bool:
    """Whether what is there already is this bundle in this precision, and not out of date.

    Raises:
        BundleError: it is no bundle, or a damaged one.
        ExportError: it is of another model or of other settings, and would be lost.
    """
    other = read_manifest(made)

    def identity(m: Manifest) -> tuple[object, ...]:
        sizes = (m.preprocessing.input_size, m.batch, m.track_slots, m.budgets)
        return (m.checkpoint_sha256, m.model, m.classes, *sizes)

    same = (other.target, other.precision) == ("gpu", precision) and other.engine is None
    if not same or identity(other) != identity(manifest):
        raise ExportError(
            f"{made} is not {manifest.name} in {precision}, and would be replaced; move it away, "
            f"or export the bundle that is wanted with `vpp-deploy export CHECKPOINT --{precision} "
            "--out FOLDER`, and name that"
        )
    current = other.versions == library_versions()
    return current and (other.verification is not None or not verified)


def _shown(folder: Path) -> Path:
    """Relative to the current folder, if it is below."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder

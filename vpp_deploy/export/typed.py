"""From a bundle to the graphs that an engine of some precision is built from.

Precision is decided in PyTorch, when a graph is exported: which parts stay in float32 is written
where the model is (`vpp_deploy/models/precision.py`), and nothing downstream has to guess. So these
graphs come from the checkpoint, not from the bundle's own; the bundle says everything else.
"""

from collections.abc import Callable
from pathlib import Path

from vpp_deploy.errors import BundleError, ExportError
from vpp_deploy.export.bundle import Progress, Verify, export_bundle
from vpp_deploy.manifests import MANIFEST_NAME, Manifest, read_manifest
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
        ExportError: the checkpoint is not found, or the graphs cannot be made.
    """
    manifest = read_manifest(folder)
    if manifest.engine is not None:
        raise BundleError(f"{folder} holds engines already; name the bundle they were built from")
    if (manifest.target, manifest.precision) == ("gpu", precision):
        return folder
    made = folder.with_name(f"{folder.name}-{precision}")
    if _is_made_from(made, manifest, precision):
        return made
    path = checkpoint or Path(manifest.checkpoint)
    if not path.is_file():
        raise ExportError(
            f"graphs in {precision} are made from the checkpoint, as precision is decided in "
            f"PyTorch, and {path} is not here; name the file that {folder.name} was exported from "
            "with --checkpoint"
        )
    progress(f"reading {path}")
    prepared = prepare_again(path, manifest, precision, "gpu")
    verify = None if verifier is None else verifier(prepared)
    return export_bundle(prepared, made, verify=verify, progress=progress).folder


def _is_made_from(made: Path, manifest: Manifest, precision: str) -> bool:
    """Whether such a bundle is there already, and says the same in all but numbers."""
    if not (made / MANIFEST_NAME).is_file():
        return False
    other = read_manifest(made)
    if (other.target, other.precision) != ("gpu", precision) or other.engine is not None:
        return False

    def identity(m: Manifest) -> tuple[object, ...]:
        sizes = (m.preprocessing.input_size, m.batch, m.track_slots, m.budgets)
        return (m.checkpoint_sha256, m.model, m.classes, m.versions, *sizes)

    return identity(other) == identity(manifest)

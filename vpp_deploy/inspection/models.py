"""What a bundle is, and what engines are."""

import math
from datetime import UTC, datetime
from pathlib import Path

from vpp_deploy.errors import BundleError
from vpp_deploy.inspection.facts import ModelFacts, StageFacts
from vpp_deploy.manifests import MANIFEST_NAME, PATCH_SIZE, Manifest, read_manifest


def inspect_model(folder: Path) -> ModelFacts:
    """A bundle or engines; needs neither ONNX nor what runs them.

    Raises:
        BundleError: as `read_manifest`: no manifest, or it or a file is damaged.
    """
    manifest = read_manifest(folder)
    parameters, notes = _parameters(folder, manifest)
    height, width = manifest.preprocessing.input_size
    num_tokens = (height // PATCH_SIZE) * (width // PATCH_SIZE)
    written = datetime.fromtimestamp((folder / MANIFEST_NAME).stat().st_mtime, UTC)
    return ModelFacts(
        kind="bundle" if manifest.engine is None else "engine",
        path=str(folder),
        name=manifest.name,
        bytes=sum((folder / name).stat().st_size for name in manifest.sha256),
        written=written.isoformat(timespec="seconds"),
        input_size=(height, width),
        batch=manifest.batch,
        num_tokens=num_tokens,
        budgets=manifest.budgets,
        budget_shares=tuple(round(count / num_tokens, 4) for count in manifest.budgets),
        track_slots=manifest.track_slots,
        num_queries=manifest.num_queries,
        classes=manifest.classes,
        precision=manifest.precision,
        target=manifest.target,
        stages=_stages(folder, manifest, parameters),
        model=manifest.model,
        checkpoint=manifest.checkpoint,
        checkpoint_sha256=manifest.checkpoint_sha256,
        versions=manifest.versions,
        verification=manifest.verification,
        engine=manifest.engine,
        notes=notes,
    )


def _stages(folder: Path, manifest: Manifest, parameters: dict[str, int]) -> tuple[StageFacts, ...]:
    return tuple(
        StageFacts(
            name=stage.name,
            file=manifest.files[stage.name],
            bytes=(folder / manifest.files[stage.name]).stat().st_size,
            parameters=parameters.get(stage.name),
            macs=manifest.operations[stage.name].macs,
            macs_first_frame=manifest.operations[stage.name].macs_first_frame,
            inputs=stage.inputs,
            outputs=stage.outputs,
        )
        for stage in manifest.pipeline.stages
    )


def _parameters(folder: Path, manifest: Manifest) -> tuple[dict[str, int], tuple[str, ...]]:
    """Stage to numbers stored in its graph, and what to know where those cannot be counted."""
    if manifest.engine is not None:
        return {}, ("engines do not tell their parameters; their bundle does",)
    try:
        import onnx
    except ImportError:
        why = "parameters are counted with onnx, which is not installed; vpp-deploy[export] has it"
        return {}, (why,)
    counts = {}
    for stage, file in manifest.files.items():
        # The hash says that this is the file that was exported.
        try:
            graph = onnx.load(folder / file).graph
        except Exception as error:  # protobuf's errors share no base class with onnx's
            raise BundleError(f"{folder / file} is no ONNX graph ({error})") from error
        counts[stage] = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    return counts, ()

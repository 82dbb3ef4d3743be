"""manifest.json: what a bundle is, and the hashes that say it still is.

A bundle is loaded only if its manifest is of this schema and every file has the hash that the
manifest gives, so a damaged, mixed or half-written bundle is refused before it is used.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpp_deploy.errors import BundleError
from vpp_deploy.specs import ColdStart, PipelineSpec, StageSpec, StateEdge, TensorSpec

SCHEMA = 1
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Preprocessing:
    """What the stem does to a frame, and what must be done before it (MODEL.md 1)."""

    input_size: tuple[int, int]
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    interpolation: str = "OpenCV INTER_LINEAR on uint8"
    padding: str = "right and bottom, zero after normalisation"


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime needs to know of a bundle.

    Attributes:
        name: of the bundle.
        pipeline: stages, their tensors, and the temporal state.
        batch: streams stepped together.
        track_slots: track queries that the head takes.
        num_queries: static queries.
        classes: names, without background.
        budgets: tokens that run in blocks 1-2, 3-5, 6-8, 9-11; empty for a dense model.
        precision: of the graphs.
        preprocessing: of a frame.
        model: sizes of the model, as `ModelConfig` names them.
        files: stage to file name, relative to the manifest.
        sha256: file name to hash.
        checkpoint: name of the checkpoint's file.
        checkpoint_sha256: its hash.
        versions: of the libraries that made the graphs.
        verification: what `--verify` saw, or None if it did not run.
    """

    name: str
    pipeline: PipelineSpec
    batch: int
    track_slots: int
    num_queries: int
    classes: tuple[str, ...]
    budgets: tuple[int, ...]
    precision: str
    preprocessing: Preprocessing
    model: dict[str, Any]
    files: dict[str, str]
    sha256: dict[str, str]
    checkpoint: str
    checkpoint_sha256: str
    versions: dict[str, str]
    verification: dict[str, Any] | None


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `folder/manifest.json`."""
    document = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    (folder / MANIFEST_NAME).write_text(json.dumps(document, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks a bundle's manifest and the hash of each of its files.

    Raises:
        BundleError: no manifest, another schema, a field missing or of another form, a file
            missing, outside the folder, or changed.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_NAME}; export one first")
    try:
        document = json.loads(path.read_text())
        schema = document.pop("schema")
    except (ValueError, AttributeError, KeyError, OSError) as error:
        raise BundleError(
            f"{path} cannot be read as a manifest: {error!r}; export again"
        ) from error
    if schema != SCHEMA:
        raise BundleError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA}; export the bundle again"
        )
    try:
        manifest = _manifest(document)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is damaged: {error!r}; export the bundle again") from error
    _check_files(folder, manifest)
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name, expected in manifest.sha256.items():
        if Path(name).name != name:
            raise BundleError(f"{folder}: the manifest names {name!r}, which is no plain file name")
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{folder}: {name} is missing; export the bundle again")
        if hash_file(file) != expected:
            raise BundleError(
                f"{folder}: {name} is not the file that was exported (its SHA-256 differs from "
                "the manifest's); export the bundle again"
            )
    for stage in manifest.pipeline.stages:
        if manifest.files.get(stage.name) not in manifest.sha256:
            raise BundleError(
                f"{folder}: the manifest vouches for no graph of the stage {stage.name!r}; "
                "export the bundle again"
            )


def _manifest(d: dict[str, Any]) -> Manifest:
    preprocessing = d["preprocessing"]
    return Manifest(
        **{
            **d,
            "pipeline": _pipeline(d["pipeline"]),
            "classes": tuple(d["classes"]),
            "budgets": tuple(d["budgets"]),
            "preprocessing": Preprocessing(
                **{
                    **preprocessing,
                    "input_size": tuple(preprocessing["input_size"]),
                    "mean_rgb": tuple(preprocessing["mean_rgb"]),
                    "std_rgb": tuple(preprocessing["std_rgb"]),
                }
            ),
        }
    )


def _pipeline(d: dict[str, Any]) -> PipelineSpec:
    def tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in items)

    cold = d["cold_start"]
    return PipelineSpec(
        stages=tuple(
            StageSpec(s["name"], tensors(s["inputs"]), tensors(s["outputs"])) for s in d["stages"]
        ),
        state=tuple(StateEdge(e["output"], e["input"]) for e in d["state"]),
        cold_start=None
        if cold is None
        else ColdStart(tuple(cold["skip"]), cold["keep"], cold["num_tokens"]),
    )

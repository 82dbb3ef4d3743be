"""manifest.json: what a bundle is, and the hashes that say it still is.

A bundle is loaded only if its manifest is of this schema and every file has the hash that the
manifest gives, so a damaged, mixed or half-written bundle is refused before it is used.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vpp_deploy.errors import BundleError
from vpp_deploy.specs import PipelineSpec

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
        BundleError: no manifest, another schema, a field missing or of another form, fields that
            contradict each other, a file missing, outside the folder, or changed.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_NAME}; export one first")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise BundleError(f"{path} is not JSON ({error}); export the bundle again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise BundleError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA}; export the bundle again"
        )
    try:
        # As JSON, where a list is what a tuple is written as; strict, so that "1" is no 1.
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{path} is damaged: {field}: {first['msg']}; export the bundle again"
        ) from error
    for finding in _contradictions(manifest):
        raise BundleError(f"{path} contradicts itself: {finding}; export the bundle again")
    _check_files(folder, manifest)
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What the session relies on: names, and sizes that are said in more than one place."""
    spec = manifest.pipeline
    consumed = {tensor.name: tensor for stage in spec.stages for tensor in stage.inputs}
    produced = {tensor.name: tensor for stage in spec.stages for tensor in stage.outputs}
    for name in ("frames", "frame_sizes", "track_queries", "track_valid"):
        if name not in consumed:
            yield f"no stage takes {name!r}"
            return
    for name in ("class_logits", "mask_embeds", "mask_features", "queries"):
        if name not in produced:
            yield f"no stage gives {name!r}"
            return
    for name in consumed.keys() & produced.keys():
        taken, given = consumed[name], produced[name]
        if taken.dtype != given.dtype or len(taken.shape) != len(given.shape):
            yield f"{name} is given as {given} and taken as {taken}"
    for edge in spec.state:
        if edge.output not in produced or edge.input not in consumed:
            yield f"the state {edge} names no tensor"
        elif produced[edge.output].shape != consumed[edge.input].shape:
            yield f"the two ends of the state {edge} differ in shape"
    start = spec.cold_start
    if start is not None and consumed.get(start.keep) is None:
        yield f"no stage takes {start.keep!r}"
    height, width = manifest.preprocessing.input_size
    queries = manifest.num_queries + manifest.track_slots
    for name, shape, expected in (
        ("frames", consumed["frames"].shape, (manifest.batch, height, width, 3)),
        ("track_valid", consumed["track_valid"].shape, (manifest.batch, manifest.track_slots)),
        (
            "class_logits",
            produced["class_logits"].shape,
            (manifest.batch, queries, len(manifest.classes) + 1),
        ),
    ):
        if shape != expected:
            yield f"{name} has the shape {shape}, the other fields say {expected}"


def _check_files(folder: Path, manifest: Manifest) -> None:
    for stage in manifest.pipeline.stages:
        if manifest.files.get(stage.name) not in manifest.sha256:
            raise BundleError(
                f"{folder}: the manifest vouches for no graph of the stage {stage.name!r}; "
                "export the bundle again"
            )
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

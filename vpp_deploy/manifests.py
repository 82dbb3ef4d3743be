"""manifest.json: what a bundle is, and the hashes that say it still is.

A bundle is loaded only if its manifest is of this schema and every file has the hash that the
manifest gives, so a damaged, mixed or half-written bundle is refused before it is used.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vpp_deploy.errors import BundleError
from vpp_deploy.specs import BACKENDS, PRECISIONS, TARGETS, PipelineSpec, TensorSpec

SCHEMA = 3
MANIFEST_NAME = "manifest.json"
PATCH_SIZE = 16
_MAX_NAME = 255
MAX_MANIFEST_BYTES = 1 << 25
"""A thousand times what one takes."""

_DTYPES = frozenset({"uint8", "int64", "float32", "float16", "bfloat16", "bool"})
_MAX_MACS = 2**63 - 1


@dataclass(frozen=True)
class Preprocessing:
    """What the stem does to a frame, and what must be done before it (MODEL.md 1)."""

    input_size: tuple[int, int]
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    interpolation: str = "OpenCV INTER_LINEAR on uint8"
    padding: str = "right and bottom, zero after normalisation"


@dataclass(frozen=True)
class StageOperations:
    """Multiply-accumulates of one call of a stage's graph, all streams of the batch together.

    Attributes:
        macs: of a frame in mid-video.
        macs_first_frame: of a first frame, which runs every token; 0 if it skips the stage.
        by_operator: `macs`, by ONNX operator.
    """

    macs: int
    macs_first_frame: int
    by_operator: dict[str, int]


@dataclass(frozen=True)
class EngineBuild:
    """How a bundle's graphs became engines, and where those run.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        version: of that library, which alone can load them.
        architectures: compute capabilities that they run on, as "8.6".
        gpu: that built them; None: built ahead of time, on a machine without one.
        driver: of that GPU, where known.
        build_s: stage to seconds.
        layers: stage to number of layers, by the numeric type that they give.
        graphs_sha256: stage to the hash of the graph that its engine was built from.
        max_frame_size: (H, W) of the largest frames whose masks are made on the device.
    """

    backend: str
    version: str
    architectures: tuple[str, ...]
    gpu: str | None
    driver: str | None
    build_s: dict[str, float]
    layers: dict[str, dict[str, int]]
    graphs_sha256: dict[str, str]
    max_frame_size: tuple[int, int]


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
        target: what the graphs are written for, see `TARGETS`.
        preprocessing: of a frame.
        model: sizes of the model, as `ModelConfig` names them.
        operations: stage to what its graph computes, as exported.
        float32_products: stage to how many of its convolutions and matrix products give float32:
            in half precision those of the islands alone.
        files: stage to file name, relative to the manifest.
        sha256: file name to hash.
        checkpoint: the checkpoint's path, as it was given.
        checkpoint_sha256: its hash.
        versions: of the libraries that made the graphs.
        verification: what `--verify` saw, or None if it did not run.
        engine: how the graphs became engines, which `files` names; None where it names graphs.
    """

    name: str
    pipeline: PipelineSpec
    batch: int
    track_slots: int
    num_queries: int
    classes: tuple[str, ...]
    budgets: tuple[int, ...]
    precision: str
    target: str
    preprocessing: Preprocessing
    model: dict[str, Any]
    operations: dict[str, StageOperations]
    float32_products: dict[str, int]
    files: dict[str, str]
    sha256: dict[str, str]
    checkpoint: str
    checkpoint_sha256: str
    versions: dict[str, str]
    verification: dict[str, Any] | None
    engine: EngineBuild | None


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
        raise BundleError(
            f"{folder} is no bundle and no engine of ours: it has no {MANIFEST_NAME}; export a "
            "bundle first"
        )
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{path} has {size} bytes, expected {MAX_MANIFEST_BYTES} at most; export the "
                "bundle again"
            )
        content = path.read_bytes()
        document = json.loads(content.decode())
    except (ValueError, RecursionError, OSError) as error:
        raise BundleError(f"{path} is not JSON ({error}); export the bundle again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise BundleError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA}; export the bundle again"
        )
    try:
        # As JSON, where a list is what a tuple is written as; strict, so that "1" is no 1.
        manifest = TypeAdapter(Manifest).validate_json(content, strict=True)
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


_MASK_INPUTS = {"row_weights", "column_weights", "mask_offset"}
_SESSION_INPUTS = {"frames", "frame_sizes", "track_queries", "track_valid", "rank_noise"}
_SESSION_OUTPUTS = {"class_logits", "mask_logits", "queries"}


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What the session relies on: order, names, state, and sizes said in more than one place."""
    spec = manifest.pipeline
    for what, value, choices in (
        ("precision", manifest.precision, PRECISIONS),
        ("target", manifest.target, TARGETS),
    ):
        if value not in choices:
            yield f"{what} is {value!r}, this version knows {', '.join(choices)}"
    names = [stage.name for stage in spec.stages]
    if len(set(names)) < len(names):
        yield f"a stage appears twice in {names}"
    produced: dict[str, TensorSpec] = {}
    consumed: dict[str, TensorSpec] = {}
    known = _SESSION_INPUTS | _MASK_INPUTS | {edge.input for edge in spec.state}
    for stage in spec.stages:
        for tensor in (*stage.inputs, *stage.outputs):
            if tensor.dtype not in _DTYPES or not all(n == -1 or n > 0 for n in tensor.shape):
                yield f"{stage.name} has the tensor {tensor}, which is none"
        for tensor in stage.inputs:
            consumed[tensor.name] = tensor
            if tensor.name not in produced and tensor.name not in known:
                yield f"nothing before {stage.name} gives it {tensor.name!r}"
        for tensor in stage.outputs:
            if tensor.name in produced or tensor.name in known:
                yield f"{stage.name} gives {tensor.name!r}, which is there already"
            produced[tensor.name] = tensor
    missing = (_SESSION_INPUTS - {"rank_noise"} - consumed.keys()) | (
        _SESSION_OUTPUTS - produced.keys()
    )
    if missing:
        yield f"no stage has the tensors {sorted(missing)}"
        return
    yield from _state_contradictions(spec, produced, consumed)
    yield from _operations_contradictions(spec, manifest.operations)
    yield from _engine_contradictions(manifest, {stage.name for stage in spec.stages})
    height, width = manifest.preprocessing.input_size
    tokens = (height // PATCH_SIZE) * (width // PATCH_SIZE)
    queries = manifest.num_queries + manifest.track_slots
    sizes = [
        ("frames", consumed["frames"].shape, (manifest.batch, height, width, 3)),
        ("track_valid", consumed["track_valid"].shape, (manifest.batch, manifest.track_slots)),
        (
            "class_logits",
            produced["class_logits"].shape,
            (manifest.batch, queries, len(manifest.classes) + 1),
        ),
    ]
    if spec.cold_start is not None:
        kept = ("kept_1_2", "next_ref_positions", "kept_6_8", "kept_9_11")
        counts = tuple(produced[name].shape[-1] for name in kept if name in produced)
        sizes += [
            ("the cold start", (spec.cold_start.num_tokens,), (tokens,)),
            ("the budgets", manifest.budgets, counts),
        ]
    for name, got, expected in sizes:
        if got != expected:
            yield f"{name} has {got}, the other fields say {expected}"


def _state_contradictions(
    spec: PipelineSpec, produced: dict[str, TensorSpec], consumed: dict[str, TensorSpec]
) -> Iterator[str]:
    ends = [end for edge in spec.state for end in (edge.output, edge.input)]
    if len(set(ends)) < len(ends):
        yield "two edges of the state share an end"
    carried = {name for name in produced if name not in consumed and name.startswith("next_")}
    if carried - set(ends):
        yield f"{sorted(carried - set(ends))} is for the next frame, and no edge takes it there"
    for edge in spec.state:
        given, taken = produced.get(edge.output), consumed.get(edge.input)
        if given is None or taken is None:
            yield f"the state {edge} names no tensor"
        elif (given.dtype, given.shape) != (taken.dtype, taken.shape):
            yield f"the two ends of the state {edge} differ"
    start = spec.cold_start
    if (start is None) != (not spec.state):
        yield "state and cold start belong together"
    if start is not None:
        skipped = {t.name for s in spec.stages if s.name in start.skip for t in s.outputs}
        if skipped != {start.keep}:
            yield f"a first frame skips what gives {sorted(skipped)}, and replaces {start.keep!r}"


def _operations_contradictions(
    spec: PipelineSpec, operations: dict[str, StageOperations]
) -> Iterator[str]:
    """Counts must fit each other: speed is judged by them."""
    names = {stage.name for stage in spec.stages}
    if operations.keys() != names:
        yield f"operations are given for {sorted(operations)}, the stages are {sorted(names)}"
        return
    start = spec.cold_start
    for stage in spec.stages:
        counted = operations[stage.name]
        counts = (counted.macs, counted.macs_first_frame, *counted.by_operator.values())
        if min(counts) < 0 or max(counts) > _MAX_MACS:
            yield f"{stage.name} has a number of operations that is no count"
            continue
        if sum(counted.by_operator.values()) != counted.macs:
            yield f"the operations of {stage.name} do not add up to its {counted.macs}"
        if start is not None and stage.name in start.skip:
            fits, expected = counted.macs_first_frame == 0, "0, as it is skipped"
        elif start is not None and start.keep in [t.name for t in stage.inputs]:
            fits, expected = counted.macs_first_frame >= counted.macs, f"{counted.macs} or more"
        else:
            fits, expected = counted.macs_first_frame == counted.macs, str(counted.macs)
        if not fits:
            got = counted.macs_first_frame
            yield f"{stage.name} has {got} operations at a first frame, expected {expected}"


def _engine_contradictions(manifest: Manifest, stages: set[str]) -> Iterator[str]:
    if manifest.float32_products.keys() != stages:
        yield f"products are given for {sorted(manifest.float32_products)}, not for every stage"
    build = manifest.engine
    if build is None:
        return
    if build.backend not in BACKENDS[2:]:
        yield f"its backend is {build.backend!r}, engines have {' or '.join(BACKENDS[2:])}"
    if manifest.target != "gpu" or manifest.precision == "int8":
        yield f"engines of graphs in {manifest.precision} for the {manifest.target}"
    if manifest.files.keys() != stages:
        yield f"engines are given for {sorted(manifest.files)}, the stages are {sorted(stages)}"
    for what in ("build_s", "layers", "graphs_sha256"):
        if getattr(build, what).keys() != stages:
            yield f"engine.{what} is given for {sorted(getattr(build, what))}, not for every stage"
    if min(build.max_frame_size) < 1:
        yield f"engine.max_frame_size is {build.max_frame_size}, no size of a frame"
    if not build.architectures or not all(
        re.fullmatch(r"\d{1,2}\.\d", architecture) for architecture in build.architectures
    ):
        yield f"engine.architectures is {build.architectures}, expected some, as 8.6"


def _check_files(folder: Path, manifest: Manifest) -> None:
    kind, made, again = "graph", "exported", "export the bundle again"
    if manifest.engine is not None:
        kind, made = "engine", "built"
        again = f"build it again: vpp-deploy build-engine export/{manifest.name}"
    for stage in manifest.pipeline.stages:
        if manifest.files.get(stage.name) not in manifest.sha256:
            raise BundleError(
                f"{folder}: the manifest vouches for no {kind} of the stage {stage.name!r}; {again}"
            )
    for name, expected in manifest.sha256.items():
        if Path(name).name != name:
            raise BundleError(
                f"{folder}: the manifest names {name[:80]!r}, which is no plain file name"
            )
        file = folder / name
        if len(name) > _MAX_NAME or not file.is_file():
            raise BundleError(f"{folder}: {name[:80]} is missing; {again}")
        if hash_file(file) != expected:
            raise BundleError(
                f"{folder}: {name} is not the file that was {made} (its SHA-256 differs from "
                f"the manifest's); {again}"
            )

"""Manifests with wrong fields, texts that are none, and paths that lead out."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.bundle_damage import (
    STAGES,
    Damage,
    Document,
    Turns,
    damaged,
    edit,
    refused,
    runs,
)
from tests.faults.judging import Case
from vpp_deploy.manifests import MANIFEST_NAME


def cases() -> Iterator[Case]:
    """All of them."""
    turns = Turns()
    for name, change in _FIELDS.items():
        yield Case("manifest", name, damaged(edit(change)))
    yield Case("manifest", "schema-3.0", damaged(edit(_set("schema", 3.0))), runs)
    for name, text in _TEXTS.items():
        yield refused("manifest", name, _manifest_text(text), turns)
    for name, target in _PATHS.items():
        yield refused("manifest paths", f"file-{name}", edit(_points_to(target)), turns)
        yield refused("manifest paths", f"extra-{name}", edit(_vouches_for(target)), turns)


def _manifest_text(text: Callable[[str], str | bytes]) -> Damage:
    def damage(bundle: Path) -> None:
        before = (bundle / MANIFEST_NAME).read_text()
        changed = text(before)
        data = changed.encode() if isinstance(changed, str) else changed
        if data == before.encode():
            raise ValueError("nothing is damaged")
        (bundle / MANIFEST_NAME).write_bytes(data)

    return damage


def _set(path: str, value: object) -> Callable[[Document], None]:
    """`value` at a dotted path, whose numbers are places in lists."""

    def change(document: Document) -> None:
        *steps, last = (int(step) if step.isdecimal() else step for step in path.split("."))
        place: Any = document
        for step in steps:
            place = place[step]
        place[last] = value

    return change


def _drop(name: str) -> Callable[[Document], object]:
    return lambda document: document.pop(name)


def _points_to(target: str) -> Callable[[Document], None]:
    """A stage's file is elsewhere, and its hash is right."""

    def change(document: Document) -> None:
        name = document["files"]["stem"]
        document["sha256"][target] = document["sha256"].pop(name)
        document["files"]["stem"] = target

    return change


def _vouches_for(target: str) -> Callable[[Document], None]:
    empty = hashlib.sha256(b"").hexdigest()
    return lambda document: document["sha256"].update({target: empty})


_PATHS = {
    "up": "../sound.onnx",
    "up-and-down": "../bad/stem.onnx",
    "here": "./stem.onnx",
    "absolute": "/etc/passwd",
    "device": "/dev/zero",
    "dots": "..",
    "dot": ".",
    "empty": "",
    "nul": "stem\0.onnx",
    "drive": "C:\\Windows\\stem.onnx",
    "backslashes": "..\\stem.onnx",
    "home": "~/stem.onnx",
    "url": "http://127.0.0.1:9/stem.onnx",
    "surrogate": "\udcff",
    "long": "x" * 300,
    "megabyte": "y" * 1_000_000,
    "line-breaks": "a\nerror: b\x1b[31m",
    "manifest": MANIFEST_NAME,
}

_HUGE = 10**30

_STEM = "pipeline.stages.0"

_FIELDS: dict[str, Callable[[Document], object]] = {
    **{f"no-{name}": _drop(name) for name in ("schema", "pipeline", "files", "sha256", "budgets")},
    **{f"no-{name}": _drop(name) for name in ("preprocessing", "model", "operations", "engine")},
    **{
        f"schema-{value}": _set("schema", value)
        for value in (0, 2, 4, -1, _HUGE, "3", 3.5, None, True)
    },
    **{f"batch-{value}": _set("batch", value) for value in (0, -1, 2, _HUGE, "1", 1.5, None, True)},
    **{f"slots-{value}": _set("track_slots", value) for value in (0, -8, 7, _HUGE, None)},
    **{f"queries-{value}": _set("num_queries", value) for value in (0, -20, 21, 2**63)},
    "budgets-none": _set("budgets", []),
    "budgets-three": _set("budgets", [33, 24, 16]),
    "budgets-five": _set("budgets", [33, 24, 16, 9, 9]),
    "budgets-negative": _set("budgets", [-33, -24, -16, -9]),
    "budgets-growing": _set("budgets", [9, 16, 24, 33]),
    "budgets-huge": _set("budgets", [_HUGE, 24, 16, 9]),
    "budgets-of-text": _set("budgets", ["33", "24", "16", "9"]),
    "budgets-deep": _set("budgets", [[[[33]]]]),
    "classes-none": _set("classes", []),
    "classes-one-more": lambda document: document["classes"].append("more"),
    "classes-of-numbers": _set("classes", [1, 2, 3, 4, 5]),
    "classes-of-10-megabytes": _set("classes", ["x" * 10_000_000]),
    "name-a-number": _set("name", 5),
    "name-null": _set("name", None),
    "precision-unknown": _set("precision", "fp8"),
    "precision-bf16": _set("precision", "bf16"),
    "target-unknown": _set("target", "tpu"),
    "input-size-zero": _set("preprocessing.input_size", [0, 0]),
    "input-size-negative": _set("preprocessing.input_size", [-96, 128]),
    "input-size-other": _set("preprocessing.input_size", [128, 96]),
    "input-size-huge": _set("preprocessing.input_size", [_HUGE, _HUGE]),
    "input-size-three": _set("preprocessing.input_size", [96, 128, 3]),
    "stages-none": _set("pipeline.stages", []),
    "stages-null": _set("pipeline.stages", None),
    "stages-reversed": lambda document: document["pipeline"]["stages"].reverse(),
    "stage-missing": lambda document: document["pipeline"]["stages"].pop(1),
    "stage-twice": lambda document: document["pipeline"]["stages"].append(
        document["pipeline"]["stages"][0]
    ),
    "stage-of-another-name": _set(f"{_STEM}.name", "steam"),
    "stage-name-empty": _set(f"{_STEM}.name", ""),
    "tensor-renamed": _set(f"{_STEM}.outputs.0.name", "other"),
    "tensor-name-of-10-megabytes": _set(f"{_STEM}.outputs.0.name", "x" * 10_000_000),
    "dtype-other": _set(f"{_STEM}.outputs.0.dtype", "float16"),
    "dtype-unknown": _set(f"{_STEM}.outputs.0.dtype", "float33"),
    "dtype-object": _set(f"{_STEM}.outputs.0.dtype", "O"),
    "dtype-structured": _set(f"{_STEM}.outputs.0.dtype", "i4,i4"),
    "dtype-empty": _set(f"{_STEM}.outputs.0.dtype", ""),
    "shape-other": _set(f"{_STEM}.outputs.0.shape", [1, 48, 47]),
    "shape-negative": _set(f"{_STEM}.outputs.0.shape", [1, -48, 48]),
    "shape-open": _set(f"{_STEM}.outputs.0.shape", [1, -1, 48]),
    "shape-huge": _set(f"{_STEM}.outputs.0.shape", [1, 2**62, 48]),
    "shape-of-terabytes": _set("pipeline.stages.0.outputs.1.shape", [1, 10**10, 48]),
    "shape-empty": _set(f"{_STEM}.outputs.0.shape", []),
    "shape-of-floats": _set(f"{_STEM}.outputs.0.shape", [1.0, 48.0, 48.0]),
    "shape-of-1000-axes": _set(f"{_STEM}.outputs.0.shape", [1] * 1000),
    "state-none": _set("pipeline.state", []),
    "state-to-itself": _set("pipeline.state.0.output", "ref_tokens"),
    "state-crossed": _set("pipeline.state.0.output", "next_ref_scores"),
    "cold-start-none": _set("pipeline.cold_start", None),
    "cold-start-tokens": _set("pipeline.cold_start.num_tokens", 47),
    "cold-start-skips-all": _set("pipeline.cold_start.skip", list(STAGES)),
    "macs-negative": _set("operations.stem.macs", -1),
    "macs-huge": _set("operations.stem.macs", 2**70),
    "macs-other": _set("operations.stem.macs", 5),
    "products-missing": _set("float32_products", {}),
    "files-none": _set("files", {}),
    "files-a-list": _set("files", []),
    "hashes-none": _set("sha256", {}),
    "hash-empty": lambda document: document["sha256"].update({"stem.onnx": ""}),
    "hash-of-another": lambda document: document["sha256"].update(
        {"stem.onnx": document["sha256"]["head.onnx"]}
    ),
    "hash-in-capitals": lambda document: document["sha256"].update(
        {"stem.onnx": document["sha256"]["stem.onnx"].upper()}
    ),
    "same-graph-twice": lambda document: document["files"].update(selector="stem.onnx"),
    "engine-of-numbers": _set("engine", 5),
    "engine-empty": _set("engine", {}),
    "model-a-list": _set("model", []),
}

_DEEP = 200_000

_TEXTS: dict[str, Callable[[str], str | bytes]] = {
    "empty-object": lambda text: "{}",
    "a-list": lambda text: f"[{text}]",
    "a-number": lambda text: "3",
    "null": lambda text: "null",
    "deep-lists": lambda text: "[" * _DEEP + "]" * _DEEP,
    "deep-objects": lambda text: '{"a":' * _DEEP + "1" + "}" * _DEEP,
    "deep-in-a-field": lambda text: text.replace(
        '"verification": {}', '"verification": ' + '{"a":' * 50_000 + "1" + "}" * 50_000
    ),
    "nan": lambda text: text.replace('"batch": 1', '"batch": NaN'),
    "infinity": lambda text: text.replace('"batch": 1', '"batch": 1e999'),
    "long-number": lambda text: text.replace('"batch": 1', '"batch": ' + "1" * 100_000),
    "twice": lambda text: text.replace('"batch": 1', '"batch": 1, "batch": 2'),
    "another-key": lambda text: text.replace('"schema"', '"Schema"'),
    "no-utf-8": lambda text: text.encode().replace(b"ball", b"\xff\xfe"),
    "utf-16": lambda text: text.encode("utf-16"),
    "nul": lambda text: "\0" + text,
    "comment": lambda text: "// mine\n" + text,
    "trailing-text": lambda text: text + "more",
    "python": lambda text: "__import__('os').system('touch marker')",
}

"""Damaged .safetensors files, and weights that are none."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from tests.faults.checkpoint_damage import (
    Content,
    compared,
    cut,
    exported,
    pth,
    read,
    run_model,
    safetensors,
)
from tests.faults.judging import Case, Sound

Header = dict[str, Any]
Tensors = dict[str, Any]


def cases() -> Iterator[Case]:
    """All of them."""
    for name, header in _HEADERS.items():
        yield Case("safetensors", name, exported(".safetensors", _with_header(header)))
    for name, content in _FILES.items():
        yield Case("safetensors", name, exported(".safetensors", content))
    for name, change in _VALUES.items():
        yield Case("weights", name, exported(".safetensors", _with_tensors(change)))
    for name, change in _OVERFLOWS.items():
        make = run_model(".safetensors", _with_tensors(change))
        yield Case("weights", name, make, says="NaN|finite")
    yield Case("safetensors", "key-twice", read(".safetensors", _with_header(_twice)), compared)
    for seed in range(20):
        make = read(".safetensors", _flipped_safetensors(seed, header=seed < 14))
        yield Case("safetensors", f"bits-{seed}", make, compared)
    for tenths in range(0, 10, 2):
        make = exported(".safetensors", cut(safetensors, tenths / 10))
        yield Case("safetensors", f"cut-at-{tenths}0%", make)


_WEIGHT = "detector.backbone.patch_embed.proj.weight"

_VARIANCE = "detector.backbone.norm1.running_var"


def _split(sound: Sound) -> tuple[Header, bytes]:
    data = safetensors(sound)
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _with_header(change: Callable[[Header], object]) -> Content:
    def content(sound: Sound) -> bytes:
        header, body = _split(sound)
        changed = change(header)
        return _joined(changed if isinstance(changed, bytes) else json.dumps(header).encode(), body)

    return content


def _with_tensors(change: Callable[[Tensors], object]) -> Content:
    def content(sound: Sound) -> bytes:
        tensors: Tensors = load_file(sound.checkpoint)
        change(tensors)
        data: bytes = save(tensors, metadata=_split(sound)[0]["__metadata__"])
        return data

    return content


def _flipped_safetensors(seed: int, header: bool) -> Content:
    def content(sound: Sound) -> bytes:
        data, chance = bytearray(safetensors(sound)), random.Random(seed)
        (length,) = struct.unpack("<Q", data[:8])
        end = 8 + length if header else len(data)
        data[chance.randrange(end)] ^= 1 << chance.randrange(8)
        return bytes(data)

    return content


def _entry(header: Header) -> dict[str, Any]:
    entry: dict[str, Any] = header[_WEIGHT]
    return entry


def _text(key: str, value: object) -> Callable[[Header], object]:
    return lambda header: header["__metadata__"].update({key: value})


def _of_entry(**fields: object) -> Callable[[Header], object]:
    return lambda header: _entry(header).update(fields)


def _without(field: str) -> Callable[[Header], object]:
    return lambda header: _entry(header).pop(field)


def _twice(header: Header) -> bytes:
    text = json.dumps(header)
    return text.replace("{", '{"' + _WEIGHT + '": ' + json.dumps(_entry(header)) + ", ", 1).encode()


def _renamed(name: str) -> Callable[[Header], object]:
    return lambda header: header.update({name: header.pop(_WEIGHT)})


_DEEP = 200_000

_HEADERS: dict[str, Callable[[Header], object]] = {
    "header-empty": lambda header: b"",
    "header-no-json": lambda header: b"{" * 100,
    "header-a-list": lambda header: b"[]",
    "header-null": lambda header: b"null",
    "header-deep": lambda header: b"[" * _DEEP + b"]" * _DEEP,
    "header-deep-objects": lambda header: b'{"a":' * _DEEP,
    "header-no-utf-8": lambda header: b'{"\xff\xfe": {}}',
    "header-nan": lambda header: b'{"a": NaN}',
    "header-huge-number": lambda header: b'{"a": 1' + b"0" * 100_000 + b"}",
    "header-of-nothing": lambda header: b"{}",
    "key-unknown": _renamed("something.else"),
    "key-of-a-megabyte": _renamed("x" * 1_000_000),
    "key-with-line-breaks": _renamed("a\nerror: b\r\x1b[31m\0"),
    "key-empty": _renamed(""),
    "dtype-missing": _without("dtype"),
    "dtype-unknown": _of_entry(dtype="F128"),
    "dtype-number": _of_entry(dtype=32),
    "dtype-wider": _of_entry(dtype="F64"),
    "shape-missing": _without("shape"),
    "shape-negative": _of_entry(shape=[-48, 3, 16, 16]),
    "shape-huge": _of_entry(shape=[2**62, 2**62]),
    "shape-overflow": _of_entry(shape=[2**32, 2**32, 1, 1]),
    "shape-of-floats": _of_entry(shape=[48.0, 3, 16, 16]),
    "shape-turned": _of_entry(shape=[16, 16, 3, 48]),
    "shape-of-1000-axes": _of_entry(shape=[1] * 1000 + [48 * 3 * 256]),
    "offsets-missing": _without("data_offsets"),
    "offsets-reversed": lambda header: _entry(header)["data_offsets"].reverse(),
    "offsets-outside": _of_entry(data_offsets=[2**40, 2**40 + 147456]),
    "offsets-negative": _of_entry(data_offsets=[-147456, 0]),
    "offsets-overlap": _of_entry(data_offsets=[0, 147456]),
    "offsets-huge": _of_entry(data_offsets=[0, 2**63]),
    "metadata-number": _text("config", 5),
    "metadata-nested": _text("config", {"a": {}}),
    "metadata-list": lambda header: header.update(__metadata__=[]),
    "classes-no-json": _text("classes", "[,"),
    "classes-no-list": _text("classes", '{"a": 1}'),
    "classes-of-numbers": _text("classes", "[1, 2]"),
    "classes-deep": _text("classes", "[" * _DEEP),
    "classes-too-few": _text("classes", '["one"]'),
    "classes-too-many": _text("classes", json.dumps([str(i) for i in range(100_000)])),
    "config-empty": _text("config", ""),
    "config-no-python": _text("config", "}{" * 1000),
    "config-deep": _text("config", "model = " + "(" * _DEEP),
    "config-deep-arithmetic": _text("config", "model = " + "-" * 50_000 + "1"),
    "config-of-10-megabytes": _text("config", "x = 1\n" * 1_700_000),
    "config-huge-power": _text("config", "model = dict(backbone=dict(num_heads=9**9**9**9))"),
    "config-huge-string": _text("config", "model = dict(backbone=dict(num_heads='a'*10**12))"),
    "config-imports": _text("config", "import os\nos.system('touch marker')\n"),
    "config-calls": _text("config", "model = __import__('os').system('touch marker')"),
    "config-nul": _text("config", "model = 1\0"),
    "config-other-heads": _text("config", "model = dict(backbone=dict(num_heads=7))"),
    "config-huge-heads": _text("config", f"model = dict(backbone=dict(num_heads={10**30}))"),
}

_FILES: dict[str, Content] = {
    "empty": lambda sound: b"",
    "7-bytes": lambda sound: bytes(7),
    "length-0": lambda sound: bytes(8) + safetensors(sound)[8:],
    "length-2**60": lambda sound: struct.pack("<Q", 2**60) + safetensors(sound)[8:],
    "length-2**64-1": lambda sound: b"\xff" * 8 + safetensors(sound)[8:],
    "length-of-the-file": lambda sound: struct.pack("<Q", 3_000_000) + safetensors(sound)[8:],
    "longer-than-it-says": lambda sound: safetensors(sound) + b"more",
    "shorter-than-it-says": lambda sound: safetensors(sound)[:-4],
    "a-pth": lambda sound: pth(sound),
    "text": lambda sound: b"hello world\n" * 100,
    "zeros": lambda sound: bytes(1_000_000),
}


def _fill(key: str, value: float) -> Callable[[Tensors], object]:
    """One value of a tensor, in its middle."""

    def change(tensors: Tensors) -> None:
        tensors[key] = tensors[key].copy()
        tensors[key].flat[tensors[key].size // 2] = value

    return change


def _as(dtype: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({_WEIGHT: tensors[_WEIGHT].astype(dtype)})


def _pop(key: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(key)


def _only(prefix: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if not key.startswith(prefix)]:
            del tensors[key]

    return change


def _both_spellings(tensors: Tensors) -> None:
    bias = tensors["detector.backbone.blocks.0.TransformerEncoderLayer.linear1.bias"]
    tensors["detector.backbone.blocks.0.mlp.fc1.bias"] = bias.copy()


_VALUES: dict[str, Callable[[Tensors], object]] = {
    "nan": _fill(_WEIGHT, np.nan),
    "infinity": _fill(_WEIGHT, np.inf),
    "minus-infinity": _fill(_WEIGHT, -np.inf),
    "infinite-variance": _fill(_VARIANCE, np.inf),
    "negative-variance": _fill(_VARIANCE, -1.0),
    "integers": _as("int32"),
    "bytes": _as("uint8"),
    "booleans": _as("bool"),
    "complex": _as("complex64"),
    "beyond-float32": lambda tensors: tensors.update(
        {_WEIGHT: np.full_like(tensors[_WEIGHT], 1e300, "float64")}
    ),
    "one-missing": _pop(_WEIGHT),
    "one-more": lambda tensors: tensors.update(extra=np.ones(3, np.float32)),
    "one-empty": lambda tensors: tensors.update({_WEIGHT: np.ones((0, 3, 16, 16), np.float32)}),
    "one-a-number": lambda tensors: tensors.update({_WEIGHT: np.array(1, np.float32)}),
    "one-of-another-shape": lambda tensors: tensors.update(
        {_WEIGHT: np.ones((48, 3, 8, 8), np.float32)}
    ),
    "one-in-two-spellings": _both_spellings,
    "backbone-alone": _only("detector.backbone"),
    "head-alone": _only("detector.panoptic_head"),
    "none": _only("nothing"),
}

_OVERFLOWS = {
    "overflows": _fill(_WEIGHT, 3e38),
    "overflows-in-the-head": _fill("detector.panoptic_head.query_feat.weight", 3e38),
}
"""Finite, but nothing that is computed with them is."""

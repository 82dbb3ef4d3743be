"""Other graphs than the exported ones, with hashes that are right."""

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from tests.faults.bundle_damage import (
    Damage,
    damaged,
    edit,
    runs,
)
from tests.faults.judging import Case


def cases() -> Iterator[Case]:
    """All of them."""
    for name, damage in _GRAPHS.items():
        yield Case("graphs", name, damaged(damage))
    for name, damage in _WEIGHTS.items():
        yield Case("graphs", name, damaged(damage), says="NaN|finite")
    declared = _graph("stem", _changed(_bad_shape))
    yield Case("graphs", "output-of-another-shape", damaged(declared), runs)


def _graph(stage: str, change: Callable[[Path], object]) -> Damage:
    """Another graph, whose hash is right."""

    def damage(bundle: Path) -> None:
        path = bundle / f"{stage}.onnx"
        change(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(lambda document: document["sha256"].update({path.name: digest}))(bundle)

    return damage


def _content(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _from(stage: str) -> Callable[[Path], object]:
    return lambda path: shutil.copy(path.with_name(f"{stage}.onnx"), path)


def _changed(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def rewrite(path: Path) -> None:
        model = onnx.load(path)
        change(model.graph)
        onnx.save(model, path)

    return rewrite


def _largest(value: float) -> Callable[[Path], object]:
    """The largest weight with one value of it replaced."""

    def change(graph: Any) -> None:
        weight = max(
            (w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT),
            key=lambda w: len(w.raw_data),
        )
        values = numpy_helper.to_array(weight).copy()
        values.flat[:] = value
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    return _changed(change)


def _external(graph: Any) -> None:
    """A weight that lies in a file of the system."""
    weight = graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../../../../../../etc/passwd"), ("length", "4")):
        weight.external_data.add(key=key, value=value)


def _custom(graph: Any) -> None:
    graph.node[0].op_type, graph.node[0].domain = "System", "com.evil"


def _bad_shape(graph: Any) -> None:
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 47


def _cycle(graph: Any) -> None:
    graph.node[0].input[0] = graph.node[-1].output[0]


_GRAPHS: dict[str, Damage] = {
    "empty": _graph("stem", _content(b"")),
    "text": _graph("stem", _content(b"hello world\n" * 100)),
    "zeros": _graph("stem", _content(bytes(10_000))),
    "noise": _graph("stem", _content(random.Random(0).randbytes(10_000))),
    "of-another-stage": _graph("stem", _from("head")),
    "input-renamed": _graph(
        "stem", _changed(lambda graph: setattr(graph.input[0], "name", "other"))
    ),
    "no-nodes": _graph("stem", _changed(lambda graph: graph.ClearField("node"))),
    "no-weights": _graph("stem", _changed(lambda graph: graph.ClearField("initializer"))),
    "unknown-operator": _graph("stem", _changed(_custom)),
    "cycle": _graph("stem", _changed(_cycle)),
    "weights-elsewhere": _graph("stem", _changed(_external)),
    "cut": _graph("trunk", lambda path: os.truncate(path, path.stat().st_size // 2)),
}

_WEIGHTS: dict[str, Damage] = {
    f"{name}-in-{stage}": _graph(stage, _largest(value))
    for stage in ("stem", "trunk", "head")
    for name, value in (("nan", float("nan")), ("infinity", float("inf")))
}

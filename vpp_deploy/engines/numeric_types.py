"""Which numeric types a network's and an engine's layers give, against the precision asked for.

Engines have been delivered in another precision than was asked, and nobody was told. A strongly
typed network says what every layer gives, with or without a GPU; on a GPU the built engine is
inspected besides.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vpp_deploy.errors import EngineError

_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_FLOAT_STAGES = ("selector", "masks")
"""Islands as a whole (`models/precision.py`): ranking, and masks."""

_PRODUCTS = {"MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM"}


@dataclass(frozen=True)
class TypeCount:
    """Layers by the numeric type of what they give.

    Attributes:
        layers: all but constants.
        products: matrix products and convolutions.
    """

    layers: dict[str, int]
    products: dict[str, int]


def type_name(dtype: Any) -> str:
    """A TensorRT type as `TensorSpec` calls it."""
    name = str(dtype.name)
    return _NAMES.get(name, name.lower())


def count_types(network: Any) -> TypeCount:
    """Counts over a strongly typed network."""
    layers: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        if kind == "CONSTANT" or layer.num_outputs == 0:
            continue
        given = type_name(layer.get_output(0).dtype)
        layers[given] += 1
        if kind in _PRODUCTS:
            products[given] += 1
    return TypeCount(dict(layers), dict(products))


def check_types(stage: str, precision: str, float32_products: int, count: TypeCount) -> None:
    """Refuses a network that computes in something else than was asked for.

    Args:
        stage: its name.
        precision: that was asked for.
        float32_products: how many products of it give float32, as its exporter counted.
        count: of its network.

    Raises:
        EngineError: it has floating-point types that neither the precision nor its islands have,
            or more or fewer products in float32 than were exported.
    """
    asked = _FLOATS[precision]
    strange = set(count.layers) - {asked, "float32", "int64", "int32", "uint8", "bool"}
    if strange:
        raise EngineError(
            f"{stage} was asked for in {precision}, and has layers in "
            f"{', '.join(sorted(strange))}; export the bundle again"
        )
    if count.products.get("float32", 0) != float32_products:
        raise EngineError(
            f"{stage} was asked for in {precision}, with {float32_products} matrix products and "
            f"convolutions in float32, and has {_listed(count.products)}; export the bundle again "
            f"with --{precision}"
        )
    if stage not in _FLOAT_STAGES and count.products.get(asked, 0) <= (
        0 if asked == "float32" else float32_products
    ):
        raise EngineError(
            f"{stage} was asked for in {precision}, and most of its matrix products and "
            f"convolutions are not ({_listed(count.products)}); export the bundle again with "
            f"--{precision}"
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in sorted(counts.items())) or "none"


def read_inspection(text: str) -> dict[str, int] | None:
    """Tensors that the layers of a built engine give, by floating-point type.

    Args:
        text: what EngineInspector says of an engine built with detailed verbosity, in JSON.

    Returns:
        The counts, or None if it says no types in the form that NVIDIA documents.
    """
    try:
        entries = json.loads(text)["Layers"]
        outputs = [out for entry in entries for out in entry.get("Outputs", ())]
        given = [str(value) for out in outputs for k, value in out.items() if "Datatype" in k]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    counts = Counter(name for types in given for name in _float_types(types))
    return dict(counts) if counts else None


_SPELLINGS = {
    "float32": ("fp32", "float"),
    "float16": ("fp16", "half"),
    "bfloat16": ("bf16", "bfloat16"),
}


def _float_types(text: str) -> Iterator[str]:
    words = text.lower().replace(":", " ").replace(",", " ").split()
    for name, spellings in _SPELLINGS.items():
        if any(spelling in words for spelling in spellings):
            yield name


def check_inspection(stage: str, precision: str, count: TypeCount, outputs: dict[str, int]) -> None:
    """Refuses an engine that computes in something else than its network.

    Args:
        stage: its name.
        precision: that was asked for.
        count: of its network.
        outputs: of its engine, as `read_inspection` gives them.

    Raises:
        EngineError: it uses a half-precision type that was not asked for, or not the one that was.
    """
    asked = _FLOATS[precision]
    strange = set(outputs) - {asked, "float32"}
    if strange or (asked in count.products and asked not in outputs):
        raise EngineError(
            f"the engine of {stage} was asked for in {precision}, and its layers give "
            f"{_listed(outputs)}; this TensorRT does not keep the graph's types"
        )

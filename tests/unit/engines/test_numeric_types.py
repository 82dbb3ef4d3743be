"""The audit of precision: what is counted, and what is refused."""

import json

import pytest

from vpp_deploy.engines.numeric_types import (
    TypeCount,
    check_inspection,
    check_types,
    read_inspection,
)
from vpp_deploy.errors import EngineError

HALF = TypeCount({"float16": 40, "float32": 9, "int64": 5, "bool": 1}, {"float16": 6, "float32": 2})


def test_what_was_exported_passes() -> None:
    check_types("trunk", "fp16", 2, HALF)
    check_types("masks", "fp16", 2, TypeCount({"float32": 9, "uint8": 1}, {"float32": 2}))
    check_types("stem", "fp32", 4, TypeCount({"float32": 30, "int32": 2}, {"float32": 4}))


def test_an_fp32_network_under_the_name_of_fp16() -> None:
    count = TypeCount({"float32": 50}, {"float32": 8})
    with pytest.raises(EngineError, match=r"fp16, with 2 .* in float32, and has 8 in float32"):
        check_types("trunk", "fp16", 2, count)


def test_an_island_that_is_gone() -> None:
    count = TypeCount({"float16": 50}, {"float16": 8})
    with pytest.raises(EngineError, match="has 8 in float16"):
        check_types("trunk", "fp16", 2, count)


@pytest.mark.parametrize(("precision", "strange"), [("fp32", "float16"), ("bf16", "float16")])
def test_a_type_that_nobody_asked_for(precision: str, strange: str) -> None:
    with pytest.raises(EngineError, match=f"has layers in {strange}"):
        check_types("trunk", precision, 2, HALF)
    with pytest.raises(EngineError, match="has layers in int8"):
        check_types("trunk", "fp16", 2, TypeCount({**HALF.layers, "int8": 1}, HALF.products))


def inspection(*formats: str) -> str:
    layers = [{"Name": f"l{i}", "Outputs": [{"Format/Datatype": f}]} for i, f in enumerate(formats)]
    return json.dumps({"Layers": layers, "Bindings": []})


def test_an_inspection_is_counted() -> None:
    text = inspection("Half", "Row major Linear FP16 format", "Float", "FP32", "BF16", "Int64")
    assert read_inspection(text) == {"float16": 2, "float32": 2, "bfloat16": 1}


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"Layers": ["names alone"]}', '{"Layers": [{"Outputs": []}]}']
)
def test_an_inspection_that_says_no_types(text: str) -> None:
    assert read_inspection(text) is None


def test_an_engine_that_is_not_its_network() -> None:
    check_inspection("trunk", "fp16", HALF, {"float16": 9, "float32": 2})
    check_inspection("masks", "fp16", TypeCount({}, {"float32": 2}), {"float32": 2})
    with pytest.raises(EngineError, match="its layers give 9 in float32"):
        check_inspection("trunk", "fp16", HALF, {"float32": 9})
    with pytest.raises(EngineError, match="its layers give 1 in float16, 8 in float32"):
        check_inspection(
            "trunk", "fp32", TypeCount({}, {"float32": 2}), {"float16": 1, "float32": 8}
        )

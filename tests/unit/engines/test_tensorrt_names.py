"""Every attribute of TensorRT that the code names exists in the bindings that NVIDIA publishes.

TensorRT itself cannot be installed everywhere; `tests/data/list_tensorrt_names.py` has listed the
names of its last 10.x and of 11.4. Objects are known here by what the code calls them.
"""

import ast
import json
import re
from pathlib import Path

import pytest

import vpp_deploy

ROOT = Path(vpp_deploy.__file__).parent
DATA = Path(__file__).parents[2] / "data"
VERSIONS = ("10.16", "11.4")

MODULES = (
    *sorted((ROOT / "engines").glob("*.py")),
    *sorted((ROOT / "runtime").glob("tensorrt*.py")),
)

Classes = dict[str, tuple[str, ...]]

CLASSES: Classes = {
    "builder": ("Builder",),
    "cache": ("ITimingCache",),
    "config": ("IBuilderConfig",),
    "inspector": ("EngineInspector",),
    "layer": ("ILayer", "ITopKLayer"),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "problem": ("ParserError",),
    "profile": ("IOptimizationProfile",),
    "runtime": ("Runtime",),
    "tensor": ("ITensor",),
}
"""What an object is called, to what it is: the attributes of any of these classes are its."""

CLASSES_BY_MODULE: dict[str, Classes] = {
    "stage_build": {**CLASSES, "engine": ("ICudaEngine",)},
    "tensorrt_stages": {
        "config": ("IRuntimeConfig",),
        "context": ("IExecutionContext",),
        "engine": ("ICudaEngine",),
        "runtime": ("Runtime",),
    },
    "build": {},  # `engine` and `cache` are ours there
    "loading": {},
}

RTX_ONLY = {
    ("ComputeCapability",),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IExecutionContext", "is_stream_capturable"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
}
"""Used where the module has them: TensorRT for RTX."""

Name = tuple[str, ...]


def used_names(source: str, classes: Classes) -> set[Name]:
    """("Class", "attribute") of objects, ("Name",) and ("Name", "attribute") of the module."""
    found: set[Name] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        chain = _chain(node)
        if any(part.startswith("__") for part in chain):  # Python's own
            continue
        called = [part.lstrip("_") for part in chain]
        if "trt" in called[:-1]:
            path = tuple(chain[called.index("trt") + 1 :])
            found.add(path if len(path) < 3 else (".".join(path[:-1]), path[-1]))
        elif len(called) > 1 and called[-2] in classes:
            owner = classes[called[-2]]
            found.add((owner[0] if len(owner) == 1 else "|".join(owner), chain[-1]))
    return found


def _chain(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Attribute):
        return [*_chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def missing_names(used: set[Name], listed: dict[str, list[str]], module: list[str]) -> set[Name]:
    return {name for name in used if not _exists(name, listed, module)}


def _exists(name: Name, listed: dict[str, list[str]], module: list[str]) -> bool:
    if len(name) == 1:
        return name[0] in module
    return any(name[1] in listed.get(owner, ()) for owner in name[0].split("|"))


def all_used() -> set[Name]:
    return {
        name
        for path in MODULES
        for name in used_names(path.read_text(), CLASSES_BY_MODULE.get(path.stem, CLASSES))
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_exists(version: str) -> None:
    listing = json.loads((DATA / f"tensorrt_names-{version}.json").read_text())
    assert listing["version"].startswith(version)
    missing = missing_names(all_used(), listing["classes"], listing["module"])
    assert missing == RTX_ONLY & all_used()


def test_every_name_exists_in_tensorrt_for_rtx() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    for name in all_used():
        owners = [trt] if len(name) == 1 else [_find(trt, path) for path in name[0].split("|")]
        assert any(hasattr(owner, name[-1]) for owner in owners), name


def _find(trt: object, path: str) -> object:
    for part in path.split("."):
        trt = getattr(trt, part)
    return trt


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_and_types_that_are_named_in_strings_exist(version: str) -> None:
    listing = json.loads((DATA / f"tensorrt_names-{version}.json").read_text())["classes"]
    known = {*listing["LayerType"], *listing["DataType"]}
    strings = {
        node.value
        for module in ("network", "numeric_types")
        for node in ast.walk(ast.parse((ROOT / "engines" / f"{module}.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {text for text in strings if re.fullmatch("[A-Z][A-Z0-9_]+", text)}
    assert len(named) > 15
    assert named <= known


def test_what_the_code_calls_objects_is_what_this_test_looks_for() -> None:
    owners = {name[0] for name in all_used() if len(name) > 1}
    for classes in (CLASSES, *CLASSES_BY_MODULE.values()):
        assert {"|".join(owner) for owner in classes.values()} <= owners
    assert all_used() >= RTX_ONLY


def test_a_name_that_is_gone_is_found() -> None:
    source = (
        "config.set_flag(trt.BuilderFlag.FP16)\n"
        "self._builder.platform_has_fast_fp16\n"
        "self._trt.ILogger.Severity.FATAL\n"
    )
    listing = json.loads((DATA / "tensorrt_names-11.4.json").read_text())
    used = used_names(source, CLASSES)
    assert missing_names(used, listing["classes"], listing["module"]) == {
        ("BuilderFlag", "FP16"),
        ("Builder", "platform_has_fast_fp16"),
        ("ILogger.Severity", "FATAL"),
    }

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from safetensors import safe_open

from vpp_deploy.checkpoints.formula import (
    Size,
    formula_config,
    formula_tensor,
    formula_tensors,
    published_shapes,
    write_formula_checkpoint,
)
from vpp_deploy.models.config import YOUTUBE_VIS_2021

MANIFESTS: dict[Size, str] = {
    "tiny": "vpp_tiny",
    "small": "vpp_small",
    "dense-tiny": "dense_tiny",
    "dense-small": "dense_small",
}


def manifest(shared: Path, size: Size) -> dict[str, tuple[int, ...]]:
    lines = (shared / "checkpoints" / f"manifest_{MANIFESTS[size]}.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    return {row[0]: tuple(int(part) for part in row[2].split(",") if part) for row in rows}


@pytest.fixture(scope="module")
def recorded_weights(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("weights", shared / "parity" / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", get_args(Size))
def test_keys_and_shapes_are_the_published_ones(shared: Path, size: Size) -> None:
    assert published_shapes(formula_config(size)) == manifest(shared, size)


@pytest.mark.parametrize("size", ["tiny", "dense-tiny"])
def test_values_are_those_of_the_recorded_runs(
    shared: Path, recorded_weights: ModuleType, size: Size
) -> None:
    shapes = manifest(shared, size)
    for key, tensor in formula_tensors(shapes).items():
        expected = recorded_weights.make(key, shapes[key])
        assert tensor.dtype == expected.dtype, key
        assert tensor.shape == expected.shape, key
        assert tensor.tobytes() == expected.tobytes(), key


def test_the_prefix_belongs_to_the_key() -> None:
    with_prefix = formula_tensor("detector.backbone.pos_embed", (1, 5, 4))
    assert not np.array_equal(with_prefix, formula_tensor("backbone.pos_embed", (1, 5, 4)))


def test_a_written_checkpoint_carries_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    write_formula_checkpoint(path, "tiny")
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["classes"]) == list(YOUTUBE_VIS_2021)
        assert "keep_ratio=0.6" in file.metadata()["config"]
        assert len(list(file.keys())) == 705
        key = "detector.backbone.blocks.0.TransformerEncoderLayer.linear1.bias"
        assert np.array_equal(file.get_tensor(key), formula_tensor(key, (768,)))

"""Fixtures that are too dear to be made twice: a small model, and bundles exported from it."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.faults.table import pytest_terminal_summary  # noqa: F401 (a hook)
from tests.mini import (
    ExportedMini,
    export_mini,
    graphs_of,
    mini_config,
    write_mini_checkpoint,
    write_mini_recipe,
)
from vpp_deploy.export import bundle as bundle_module


@pytest.fixture(scope="session")
def mini_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of pytest-xdist's processes, so that each bundle is exported once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mini"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "mini.lock"):
        if not (folder / "mini.toml").exists():
            write_mini_checkpoint(folder / "mini.safetensors")
            write_mini_checkpoint(folder / "dense.safetensors", mini_config(pruned=False))
            write_mini_recipe(folder / "mini.toml")
    return folder


@pytest.fixture(scope="session")
def mini_checkpoint(mini_folder: Path) -> Path:
    return mini_folder / "mini.safetensors"


@pytest.fixture(scope="session")
def mini_recipe(mini_folder: Path) -> Path:
    return mini_folder / "mini.toml"


@pytest.fixture(scope="session")
def mini_bundle(mini_folder: Path, mini_checkpoint: Path, mini_recipe: Path) -> ExportedMini:
    """One stream (25 s)."""
    return export_mini(mini_checkpoint, mini_recipe, mini_folder / "one")


@pytest.fixture(scope="session")
def mini_bundle_of_3(mini_folder: Path, mini_checkpoint: Path) -> ExportedMini:
    """Three streams (25 s)."""
    recipe = write_mini_recipe(mini_folder / "three.toml", batch=3)
    return export_mini(mini_checkpoint, recipe, mini_folder / "three")


@pytest.fixture(scope="session")
def mini_dense_bundle(mini_folder: Path) -> ExportedMini:
    """A dense model that samples by gathered rows (20 s)."""
    checkpoint = mini_folder / "dense.safetensors"
    gather = '[export]\ntarget = "gpu"\n'
    recipe = write_mini_recipe(mini_folder / "dense.toml", pruned=False, extra=gather)
    return export_mini(checkpoint, recipe, mini_folder / "dense")


@pytest.fixture(scope="session")
def mini_int8_bundle(
    mini_folder: Path, mini_checkpoint: Path, mini_bundle: ExportedMini
) -> ExportedMini:
    """One stream, linear layers in int8: the float32 graphs, quantised."""
    int8 = '[export]\nprecision = "int8"\n'
    recipe = write_mini_recipe(mini_folder / "int8.toml", extra=int8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "export_graph", graphs_of(mini_bundle))
        return export_mini(mini_checkpoint, recipe, mini_folder / "int8")


@pytest.fixture(scope="session")
def mini_fp16_bundle(mini_folder: Path, mini_checkpoint: Path) -> ExportedMini:
    """One stream, for GPUs in half precision (25 s)."""
    return _typed(mini_folder, mini_checkpoint, "fp16")


@pytest.fixture(scope="session")
def mini_bf16_bundle(mini_folder: Path, mini_checkpoint: Path) -> ExportedMini:
    """One stream, for GPUs in bfloat16 (25 s)."""
    return _typed(mini_folder, mini_checkpoint, "bf16")


def _typed(folder: Path, checkpoint: Path, precision: str) -> ExportedMini:
    extra = f'[export]\nprecision = "{precision}"\n'
    recipe = write_mini_recipe(folder / f"{precision}.toml", extra=extra)
    return export_mini(checkpoint, recipe, folder / precision)

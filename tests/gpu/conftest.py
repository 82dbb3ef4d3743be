"""What needs a GPU is skipped without one, unless VPP_REQUIRE_CUDA=1 says there must be one."""

import os
from functools import cache
from pathlib import Path

import pytest

from tests.mini import ExportedMini, export_mini, write_mini_recipe
from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.cuda import list_gpus


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_cuda: needs an NVIDIA GPU and its driver")


@cache
def why_no_cuda() -> str | None:
    try:
        list_gpus()
    except BackendError as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = why_no_cuda() if item.get_closest_marker("needs_cuda") else None
    if reason is None:
        return
    if os.environ.get("VPP_REQUIRE_CUDA") == "1":
        pytest.fail(f"VPP_REQUIRE_CUDA=1, but: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def mini_half_bundle(mini_folder: Path, mini_checkpoint: Path) -> ExportedMini:
    """Three streams in half precision, for a GPU (40 s)."""
    half = '[export]\nprecision = "fp16"\ntarget = "gpu"\n'
    recipe = write_mini_recipe(mini_folder / "half.toml", batch=3, extra=half)
    return export_mini(mini_checkpoint, recipe, mini_folder / "half")

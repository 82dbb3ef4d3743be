"""Manifests and recipes that are refused before they cost anything."""

import os
from pathlib import Path

import pytest

from vpp_deploy.errors import BundleError, RecipeError
from vpp_deploy.manifests import MANIFEST_NAME, MAX_MANIFEST_BYTES, read_manifest
from vpp_deploy.recipe_files import load_recipe


def test_a_manifest_of_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).touch()
    os.truncate(tmp_path / MANIFEST_NAME, 1 << 30)
    with pytest.raises(BundleError, match=f"1073741824 bytes, expected {MAX_MANIFEST_BYTES}"):
        read_manifest(tmp_path)


def test_a_recipe_without_end() -> None:
    with pytest.raises(RecipeError, match="/dev/zero: it has more than 262144 bytes"):
        load_recipe("/dev/zero")

"""Folders that appear all at once, and what killed processes leave beside them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vpp_deploy.errors import ExportError
from vpp_deploy.folders import staged_folder
from vpp_deploy.manifests import MANIFEST_NAME


def put(folder: Path, text: str) -> None:
    """Publishes what is taken for a bundle of one file."""
    with staged_folder(folder) as staging:
        (staging / "graph").write_text(text)
        (staging / MANIFEST_NAME).write_text('{"schema": 3, "sha256": {"graph": ""}}')


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while(step: str, folder: Path) -> None:
    """A process that writes `folder` and kills itself when it reaches a line of ours."""
    code = f"""
import os, signal
from pathlib import Path
import vpp_deploy.folders as folders
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
from tests.unit.test_folders import put
{step}
put(Path({str(folder)!r}), "killed")
"""
    process = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL


BEFORE = "folders._publish = die"
BETWEEN = """
real = folders._renamed
def renamed(source, target):
    if source.name == "bundle" and target.exists(): return False
    if source.name == "bundle": die()
    return real(source, target)
folders._renamed = renamed
"""


def test_a_folder_appears_and_nothing_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "b", "one")
    put(tmp_path / "deep" / "b", "two")
    assert (tmp_path / "deep" / "b" / "graph").read_text() == "two"
    assert names(tmp_path / "deep") == ["b"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "b") as staging:
            (staging / "graph").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_leftovers_of_the_dead_are_removed(tmp_path: Path) -> None:
    killed_while(BEFORE, tmp_path / "b")
    assert len(names(tmp_path)) == 2
    put(tmp_path / "other", "one")
    assert names(tmp_path) == ["other"]


def test_what_the_dead_were_replacing_is_put_back(tmp_path: Path) -> None:
    put(tmp_path / "b", "old")
    killed_while(BETWEEN, tmp_path / "b")
    assert "b" not in names(tmp_path)
    put(tmp_path / "other", "one")
    assert names(tmp_path) == ["b", "other"]
    assert (tmp_path / "b" / "graph").read_text() == "old"


def test_the_living_keep_theirs(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "b") as staging:
        (staging / "graph").write_text("one")
        put(tmp_path / "b", "two")
        assert (staging / "graph").read_text() == "one"
        (staging / MANIFEST_NAME).write_text('{"schema": 3, "sha256": {"graph": ""}}')
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b" / "graph").read_text() == "one"


def test_other_hidden_files_are_nobodys_business(tmp_path: Path) -> None:
    for name in (".b.lock", ".b.0123456.lock", ".b.0123456g.lock", ".hidden"):
        (tmp_path / name).write_text("mine")
    before = names(tmp_path)
    put(tmp_path / "b", "one")
    assert names(tmp_path) == [*before, "b"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/b", "x" * 300):
        with pytest.raises(ExportError, match="choose"), staged_folder(tmp_path / place):
            pass
    assert names(tmp_path) == ["file"]


def test_a_manifest_without_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / MANIFEST_NAME).symlink_to(os.devnull)
    with pytest.raises(ExportError, match="more than a bundle"), staged_folder(tmp_path / "b"):
        pass

"""Files that a profile writes, and what it leaves alone."""

import os
from pathlib import Path

import pytest

from vpp_deploy.errors import ProfileError
from vpp_deploy.profiling.writing import check_writable, write_aside


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "p.json", tmp_path / "link.json"
    target.write_text("before")
    link.symlink_to(target)
    check_writable(link)
    assert target.read_text() == "before"
    write_aside(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["p.json"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ProfileError, match="no regular file"):
        check_writable(tmp_path / "pipe")
    with pytest.raises(ProfileError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(ProfileError, match="cannot write"):
        check_writable(tmp_path / "missing" / "p.json")


def test_files_beside_it_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "p.json.part").write_text("somebody's")
    check_writable(tmp_path / "p.json")
    write_aside(tmp_path / "p.json", "{}")
    assert (tmp_path / "p.json.part").read_text() == "somebody's"

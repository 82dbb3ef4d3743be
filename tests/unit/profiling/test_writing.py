"""Files, memory and the machine."""

import os
from pathlib import Path

import pytest

from vpp_deploy.errors import ProfileError
from vpp_deploy.profiling.environment import describe_environment, load_average
from vpp_deploy.profiling.memory import peak_bytes, resident_bytes
from vpp_deploy.profiling.writing import check_writable, write_aside


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    write_aside(path, "one")
    write_aside(path, "two é")
    assert path.read_text(encoding="utf-8") == "two é"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_aside(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_aside(path, "\ud800")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".", "missing/profile.json", "file/profile.json"])
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    for write in (check_writable, lambda path: write_aside(path, "text")):
        with pytest.raises(ProfileError, match="name a"):
            write(tmp_path / name)


def test_memory() -> None:
    peak, resident = peak_bytes(), resident_bytes()
    assert peak is not None
    assert peak > 10e6
    assert resident is None or 10e6 < resident <= peak


def test_environment() -> None:
    seen = describe_environment()
    assert {"CPU", "cores", "memory", "system", "Python", "numpy", "vpp-deploy"} <= seen.keys()
    assert all(seen.values())
    load = load_average()
    assert load is None or len(load) == 3


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

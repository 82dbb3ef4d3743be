"""Files that appear all at once, or not at all."""

from pathlib import Path

import pytest

from vpp_deploy.files import written_aside


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("before")
    with written_aside(path) as aside:
        aside.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ended_by", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("begun", [True, False])
def test_whatever_ends_it_early_leaves_what_was_there(
    tmp_path: Path, ended_by: type[BaseException], begun: bool
) -> None:
    path = tmp_path / "state"
    path.write_text("before")

    def write() -> None:
        with written_aside(path) as aside:
            if begun:
                aside.write_text("half of it")
            raise ended_by

    with pytest.raises(ended_by):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]

"""The weights that come with the project, as a newcomer meets them: exported, run, evaluated."""

import json
from pathlib import Path

import pytest

from tests.command_line import succeeds

EXAMPLE = Path(__file__).parents[2] / "examples" / "emoji_vis"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the bundle that `make demo` exports (45 s)."""
    folder = tmp_path_factory.mktemp("shipped")
    arguments = (EXAMPLE / "emoji.safetensors", "--recipe", EXAMPLE / "emoji-55.toml")
    succeeds("export", *arguments, "--out", "demo", cwd=folder)
    return folder


def test_it_sees_what_is_there(folder: Path) -> None:
    printed = succeeds("eval", "demo", EXAMPLE / "test", "--json", cwd=folder).stdout
    figures = json.loads(printed)["figures"]
    assert figures["ap"] > 0.2
    assert figures["ap50"] > 0.4


def test_the_demo_follows_what_moves(folder: Path) -> None:
    options = ("--model", "demo", "--out", "clip", "--json")
    summary = json.loads(succeeds("run", EXAMPLE / "clip.mp4", *options, cwd=folder).stdout)
    assert summary["tracks_by_class"].keys() >= {"zebra", "bird", "rabbit"}

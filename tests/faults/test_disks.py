"""Two processes with one folder, processes that are killed, disks that are full or read-only."""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.judging import Sound, check_ended, loads
from tests.faults.processes import Call, Ended, Running, invoke, start_server
from tests.faults.suite import make_sound
from tests.faults.videos import run_call
from tests.mini import ExportedMini, mini_config, write_mini_checkpoint, write_mini_recipe
from vpp_deploy.errors import ExportError
from vpp_deploy.folders import staged_folder
from vpp_deploy.manifests import MANIFEST_NAME

LONG_S = 300.0
"""For what exports or builds, on a busy machine."""


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """An export that takes few seconds (a dense model of four blocks)."""
    start_server()
    folder = tmp_path_factory.mktemp("smallest")
    config = dataclasses.replace(mini_config(pruned=False), num_blocks=4, decoder_layers=1)
    checkpoint = write_mini_checkpoint(folder / "m.safetensors", config)
    recipe = write_mini_recipe(folder / "m.toml", pruned=False)
    return ("export", str(checkpoint), "--recipe", str(recipe), "--no-verify", "--out")


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory,
    mini_checkpoint: Path,
    mini_recipe: Path,
    mini_bundle: ExportedMini,
) -> Sound:
    folder = tmp_path_factory.mktemp("disks") / "sound"
    return make_sound(folder, mini_checkpoint, mini_recipe, mini_bundle.folder)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 300 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or _mount("-t", "tmpfs", "-o", "size=300k", disk):
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _mount(*arguments: object) -> bool:
    """Whether it failed."""
    command = ["mount", *map(str, arguments[:-1]), "tmpfs", str(arguments[-1])]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def refused(ended: Ended) -> str:
    """The line that says why."""
    check_ended(ended)
    assert ended.code == 1, ended.stdout
    return ended.stderr.splitlines()[-1]


def until(happened: Callable[[], bool], running: Running) -> None:
    """Waits for something that a process does."""
    for _ in range(int(LONG_S / 0.05)):
        if happened():
            return
        assert not running.ended(), "it ended before"
        time.sleep(0.05)
    pytest.fail("it never happened")


def test_exports_into_one_folder_of_which_one_is_killed(
    smallest: tuple[str, ...], tmp_path: Path
) -> None:
    call, out = Call((*smallest, "out")), tmp_path / "out"
    killed = Running(call, tmp_path)
    until(lambda: bool(list(tmp_path.glob(".out.*/bundle/*.onnx"))), killed)
    killed.kill()
    assert killed.wait().code == -9
    assert list(tmp_path.glob(".out.*"))
    assert not out.exists()
    both = [Running(call, tmp_path) for _ in range(2)]
    for running in both:
        check_ended(running.wait(LONG_S))
        assert loads(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    manifest = json.loads((out / MANIFEST_NAME).read_text())
    assert {path.name for path in out.iterdir()} == {MANIFEST_NAME, *manifest["sha256"]}


def test_two_builds_into_one_folder(mini_fp16_bundle: ExportedMini, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    start_server()
    how = ("--backend", "tensorrt-rtx", "--sm", "86", "--out", "engine")
    call = Call(("build-engine", str(mini_fp16_bundle.folder), *how))
    for running in [Running(call, tmp_path) for _ in range(2)]:
        check_ended(running.wait(LONG_S))
        assert loads(tmp_path / "engine")
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


@pytest.mark.parametrize("limit", [1_000, 200_000])
def test_no_space_for_an_export(smallest: tuple[str, ...], tmp_path: Path, limit: int) -> None:
    """A limit of a process stands for a full disk."""
    call = Call((*smallest, "out"), file_bytes=limit)
    assert "error: " in refused(invoke(call, tmp_path, LONG_S))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [4_000, 6_000])
def test_no_space_for_a_run(sound: Sound, tmp_path: Path, limit: int) -> None:
    ended = invoke(
        dataclasses.replace(run_call(str(sound.clip), sound), file_bytes=limit), tmp_path
    )
    assert "out" in refused(ended)
    *lines, _ = (tmp_path / "out" / "frames.jsonl").read_text().split("\n")
    assert all(json.loads(line)["tracks"] is not None for line in lines)
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_full_disk(sound: Sound, tiny_disk: Path) -> None:
    """A real one: what fits is kept whole, and the line says why there is not more."""
    (tiny_disk / "ballast").write_bytes(bytes(290_000))
    video = str(sound.clip)
    call = Call(("run", video, "--model", str(sound.bundle), "--out", str(tiny_disk / "out")))
    folder = tiny_disk.parent / "work"
    folder.mkdir()
    said = refused(invoke(call, folder))
    assert "No space left" in said or "space" in said
    with pytest.raises(ExportError, match="No space left"), staged_folder(tiny_disk / "b") as aside:
        (aside / "graph.onnx").write_bytes(bytes(100_000))
    assert {path.name for path in tiny_disk.iterdir()} == {"ballast", "out"}


def test_a_read_only_disk(sound: Sound, tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    work = tiny_disk.parent / "work"
    work.mkdir()
    out = str(tiny_disk / "out")
    video = str(sound.clip)
    run = Call(("run", video, "--model", str(sound.bundle), "--out", out))
    assert "Read-only" in refused(invoke(run, work))
    export = Call(("export", str(sound.checkpoint), "--recipe", str(sound.recipe), "--out", out))
    assert "Read-only" in refused(invoke(export, work))


@pytest.mark.parametrize("command", ["run", "export"])
@pytest.mark.parametrize("out", ["file", "file/out", "/proc/out", "/dev/null", "x" * 300])
def test_where_nothing_can_be_written(sound: Sound, tmp_path: Path, command: str, out: str) -> None:
    """Root may write anywhere but here."""
    (tmp_path / "file").write_text("precious")
    arguments = {
        "run": ("run", str(sound.clip), "--model", str(sound.bundle)),
        "export": ("export", str(sound.checkpoint), "--recipe", str(sound.recipe)),
    }[command]
    refused(invoke(Call((*arguments, "--out", out)), tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"

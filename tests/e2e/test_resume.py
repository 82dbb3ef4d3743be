"""A run that was stopped and gone on with: in the end the same as one that was not."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from tests.command_line import COMMAND, ENVIRONMENT, fails, succeeds, wait_for
from tests.mini import INPUT_SIZE, ExportedMini
from tests.unit.video.synthetic import moving, write_video
from vpp_deploy.video.synthetic import moving_scene

FRAMES = 40
OPTIONS = ("--refresh-every", 7, "--exploration", "noise:3")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, mini_bundle: ExportedMini) -> Path:
    """A folder with a video of two scenes, a model, and what an uninterrupted run gives."""
    folder = tmp_path_factory.mktemp("resume")
    one, other = moving_scene(INPUT_SIZE, 25, 1), moving_scene(INPUT_SIZE, FRAMES - 25, 2)
    images = [frame.rgb for frame in one] + [np.roll(frame.rgb, 1, 2) // 3 for frame in other]
    write_video(folder / "clip.mp4", images)
    shutil.copytree(mini_bundle.folder, folder / "model")
    run(folder, "whole", "--annotate", "--tokens")
    return folder


def arguments(out: str, *more: object) -> list[str]:
    command = ("run", "clip.mp4", "--model", "model", "--out", out, *OPTIONS, *more)
    return [str(argument) for argument in command]


def run(cwd: Path, out: str, *more: object) -> None:
    succeeds(*arguments(out, *more), cwd=cwd)


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "stage_ms"} for line in lines]


def images_of(path: Path) -> list[Any]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def assert_as_whole(work: Path, out: str, *, resumed_at: int, pictures: bool = True) -> None:
    ours, whole = work / out, work / "whole"
    assert lines_of(ours) == lines_of(whole)
    assert (ours / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (ours, whole)]
    assert [s.pop("resumed_at") for s in summaries] == [resumed_at, 0]
    for summary in summaries:
        del summary["latency_ms"]
        summary["notes"] = [n for n in summary["notes"] if "nothing to resume" not in n]
    assert summaries[0] == summaries[1]
    assert summaries[0]["resets"] == {"refresh": 5, "scene cut": 1}
    for name in ("annotated.mp4", "tokens.mp4") if pictures else ():
        for a, b in zip(images_of(ours / name), images_of(whole / name), strict=True):
            assert np.array_equal(a, b)
    assert not list(ours.glob("*.part"))


def stop(work: Path, out: str, number: signal.Signals, *more: object, after: int = 8) -> int:
    """Sends the signal after some frames; returns how many were done."""
    with subprocess.Popen(
        [*COMMAND, *arguments(out, *more)],
        cwd=work,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        lines = work / out / "frames.jsonl"
        assert wait_for(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= after)
        process.send_signal(number)
        process.wait(timeout=60)
    assert (
        process.returncode
        == {
            signal.SIGINT: 130,
            signal.SIGTERM: 143,
            signal.SIGKILL: -signal.SIGKILL,
        }[number]
    )
    done = lines.read_bytes().count(b"\n")
    assert after <= done < FRAMES
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_signal(work: Path, number: signal.Signals) -> None:
    """At the last frame that was done, to the frame."""
    out = f"by-{number}"
    done = stop(work, out, number, "--annotate", "--tokens")
    run(work, out, "--annotate", "--tokens", "--resume")
    assert_as_whole(work, out, resumed_at=done)


def test_killed_twice(work: Path) -> None:
    """What was done after the state was saved is done again."""
    stop(work, "killed", signal.SIGKILL, "--tokens")
    assert not (work / "killed" / "summary.json").exists()
    stop(work, "killed", signal.SIGKILL, "--tokens", "--resume", after=20)
    # The pictures of the first frames are drawn again, whether that run had drawn them or not.
    succeeds(*arguments("killed", "--annotate", "--tokens", "--resume"), cwd=work)
    summary = json.loads((work / "killed" / "summary.json").read_text())
    assert 0 < summary["resumed_at"] <= FRAMES
    assert_as_whole(work, "killed", resumed_at=summary["resumed_at"])


@pytest.mark.parametrize("space", [5_000, 60_000])
def test_no_space(work: Path, space: int) -> None:
    """Of the lines none fits, then seven do."""
    out = f"full-{space}"
    assert "frames.jsonl cannot be written (File too large)" in filled(work, space, out, "--tokens")
    done = lines_of(work / out)
    assert len(done) < FRAMES
    assert done == lines_of(work / "whole")[: len(done)]
    succeeds(*arguments(out, "--tokens", "--annotate", "--resume"), cwd=work)
    resumed_at = json.loads((work / out / "summary.json").read_text())["resumed_at"]
    assert resumed_at <= len(done)
    assert_as_whole(work, out, resumed_at=resumed_at)


def test_no_space_for_the_state(work: Path) -> None:
    """A line takes 6 kB, the state 18: the frame is done, and counted."""
    assert "state.npz cannot be written (File too large)" in filled(work, 12_000, "stateless")
    assert len(lines_of(work / "stateless")) == 1
    assert json.loads((work / "stateless" / "summary.json").read_text())["frames"] == 1


def filled(work: Path, space: int, out: str, *more: object) -> str:
    """The error of a run under a limit on the size of files, which does what a full disk does."""
    limited = (
        "import resource as r, signal as s; s.signal(s.SIGXFSZ, s.SIG_IGN); "
        f"r.setrlimit(r.RLIMIT_FSIZE, ({space},) * 2); "
    )
    command = [*COMMAND[:-1], limited + COMMAND[-1], *arguments(out, *more)]
    result = subprocess.run(
        command, cwd=work, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_by_its_range(work: Path) -> None:
    """A run that ended well goes on if there is more to do, and is left as it is otherwise."""
    run(work, "range", "--stop", 12, "--tokens")
    assert len(lines_of(work / "range")) == 12
    run(work, "range", "--resume", "--tokens")
    assert_as_whole(work, "range", resumed_at=12, pictures=False)
    before = (work / "range" / "results.json").read_bytes()
    run(work, "range", "--resume", "--tokens")
    assert_as_whole(work, "range", resumed_at=FRAMES, pictures=False)
    assert (work / "range" / "results.json").read_bytes() == before


def test_several_videos(work: Path, mini_bundle_of_3: ExportedMini, tmp_path: Path) -> None:
    """Each goes on from where it was, whichever stream it gets."""
    for seed, count in (("1", 30), ("2", 12), ("3", 20), ("4", 25)):
        images = [frame.rgb for frame in moving_scene(INPUT_SIZE, count, int(seed))]
        write_video(tmp_path / f"{seed}.mp4", images)
    command = ["run", *(f"{n}.mp4" for n in "1234"), "--model", str(mini_bundle_of_3.folder)]
    succeeds(*command, "--out", "whole", cwd=tmp_path)
    with subprocess.Popen(
        [*COMMAND, *command, "--out", "out"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        lines = tmp_path / "out" / "4" / "frames.jsonl"
        assert wait_for(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 3)
        process.terminate()
    assert process.returncode == 143
    succeeds(*command, "--out", "out", "--resume", cwd=tmp_path)
    for name in "1234":
        ours, whole = tmp_path / "out" / name, tmp_path / "whole" / name
        assert lines_of(ours) == lines_of(whole)
        assert (ours / "results.json").read_bytes() == (whole / "results.json").read_bytes()


class TestRefused:
    """What cannot be gone on with stays as it is."""

    @pytest.fixture
    def stopped(self, work: Path, tmp_path: Path) -> Path:
        shutil.copytree(work / "whole", tmp_path / "out")
        shutil.copy(work / "clip.mp4", tmp_path)
        (tmp_path / "model").symlink_to(work / "model")
        return tmp_path

    def refused(self, stopped: Path, *command: str) -> str:
        before = {path: path.read_bytes() for path in (stopped / "out").iterdir()}
        message = fails(*command, "--resume", cwd=stopped)
        assert {path: path.read_bytes() for path in (stopped / "out").iterdir()} == before
        return message

    def test_another_video(self, stopped: Path) -> None:
        shutil.move(stopped / "clip.mp4", stopped / "old.mp4")
        write_video(stopped / "clip.mp4", [frame.rgb for frame in moving_scene(INPUT_SIZE, 50, 9)])
        assert "another video;" in self.refused(stopped, *arguments("out", "--tokens"))

    def test_other_options(self, stopped: Path) -> None:
        message = self.refused(stopped, *arguments("out", "--start", "2", "--no-scene-cuts"))
        assert (
            "another start (0, not 2), another scene cuts (True, not False), another tokens (True, "
            "not False); give"
        ) in message

    def test_a_range_that_ends_before(self, stopped: Path) -> None:
        message = self.refused(stopped, *arguments("out", "--tokens", "--annotate", "--stop", "5"))
        assert "--stop 5 ends before it" in message

    @pytest.mark.parametrize("change", [("--size", "128x160"), ("--rule", "published")])
    def test_a_checkpoint_run_in_another_way(
        self, stopped: Path, mini_checkpoint: Path, mini_recipe: Path, change: tuple[str, str]
    ) -> None:
        shutil.rmtree(stopped / "out")
        settings = {"--size": f"{INPUT_SIZE[0]}x{INPUT_SIZE[1]}", "--rule": "budgets"}
        base = ["run", "clip.mp4", "--model", str(mini_checkpoint), "--recipe", str(mini_recipe)]
        first = [*base, *(text for pair in settings.items() for text in pair)]
        succeeds(*first, "--out", "out", "--stop", "3", cwd=stopped)
        settings |= dict([change])
        other = [*base, *(text for pair in settings.items() for text in pair)]
        assert "another model" in self.refused(stopped, *other, "--out", "out")

    def test_a_damaged_state(self, stopped: Path) -> None:
        state = stopped / "out" / "state.npz"
        whole = state.read_bytes()
        for damaged in (b"", whole[:1000], b"PK" + bytes(500), whole[:-200], whole[::-1]):
            state.write_bytes(damaged)
            message = self.refused(stopped, *arguments("out", "--tokens"))
            assert "state.npz is damaged" in message

    def test_a_pickle_in_the_state(self, stopped: Path) -> None:
        """Nothing in the file is executed."""
        path = stopped / "out" / "state.npz"
        np.savez(path, run=np.array([{"schema": 1}], dtype=object))
        assert "is damaged" in self.refused(stopped, *arguments("out", "--tokens"))

    def test_frames_that_are_gone(self, stopped: Path) -> None:
        lines = stopped / "out" / "frames.jsonl"
        lines.write_bytes(lines.read_bytes()[:-3000])
        command = arguments("out", "--tokens", "--annotate")
        assert "not as the run left it" in self.refused(stopped, *command)
        lines.unlink()
        assert "frames.jsonl" in self.refused(stopped, *command)


def test_a_folder_of_images_with_other_files(work: Path, tmp_path: Path) -> None:
    """What is no image of it, results among them, does not make it another video."""
    images = tmp_path / "images"
    images.mkdir()
    for number, frame in enumerate(moving_scene(INPUT_SIZE, 6, 1)):
        cv2.imwrite(str(images / f"{number}.png"), frame.rgb)
    (images / "notes.txt").symlink_to("nowhere")
    command = ["run", "images", "--model", str(work / "model"), "--out", "images"]
    succeeds(*command, "--stop", "3", cwd=tmp_path)
    succeeds(*command, "--resume", cwd=tmp_path)
    succeeds(*command[:-1], "whole", cwd=tmp_path)
    assert lines_of(images) == lines_of(tmp_path / "whole")


def test_nothing_to_resume(work: Path) -> None:
    result = succeeds(*arguments("new", "--resume", "--stop", "3"), cwd=work)
    assert "held nothing to resume" in result.stderr
    assert len(lines_of(work / "new")) == 3


def test_two_runs_into_one_folder(work: Path) -> None:
    write_video(work / "long.mp4", moving(1500, *INPUT_SIZE))
    command = ["run", "long.mp4", "--model", "model", "--out", "shared"]
    with subprocess.Popen(
        [*COMMAND, *command], cwd=work, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    ) as process:
        lines = work / "shared" / "frames.jsonl"
        assert wait_for(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 2)
        assert "another run is writing into shared" in fails(*command, cwd=work)
        process.terminate()
    assert process.returncode == 143
    summary = json.loads((work / "shared" / "summary.json").read_text())
    assert summary["frames"] == len(lines_of(work / "shared"))

"""What the example's commands do with arguments, files and folders that do not fit."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import pytest
import torch
import typer
from filelock import FileLock

from examples.emoji_vis import make_clip, make_data, plot, train
from examples.emoji_vis.learner import resume, start
from examples.emoji_vis.network import save_weights
from examples.emoji_vis.schedule import NUM_STEPS, PHASES
from tests.command_line import ENVIRONMENT
from tests.integration.test_emoji_vis import needs_material
from vpp_deploy.errors import CheckpointError, VideoError, VppDeployError
from vpp_deploy.video.writer import VideoWriter

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; commands called here leave no handlers behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def call(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str]]:
    """Calls a command in this process: its exit code and the last line on stderr."""

    def called(main: Callable[[], None], *arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr().err.splitlines()[-1]

    return called


@pytest.mark.parametrize(
    "arguments",
    [
        ("--clips", "0"),
        ("--frames", "-1"),
        ("--seed", "-1"),
        ("--seed", "1.5"),
        ("--size", "abc"),
        ("--size", "0x0"),
        ("--size", "50000x50"),
        ("--size", "1000x100"),
    ],
    ids=" ".join,
)
def test_data_that_cannot_be_made(
    call: Callable[..., tuple[object, str]], arguments: tuple[str, str]
) -> None:
    assert call(partial(typer.run, make_data.main), "test", "data", *arguments)[0] == 2
    assert not Path("data").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("clip.avi",),
        ("clip.mp4", "--fps", "0"),
        ("clip.mp4", "--fps", "nan"),
        ("clip.mp4", "--fps", "x"),
        ("clip.mp4", "--frames", "0"),
    ],
    ids=" ".join,
)
def test_clips_that_cannot_be_made(
    call: Callable[..., tuple[object, str]], arguments: tuple[str, ...]
) -> None:
    assert call(partial(typer.run, make_clip.main), *arguments)[0] == 2
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seed", "-1"),
        ("--threads", "0"),
        ("--threads", "257"),
        ("--device", "abacus"),
        ("--device", "meta"),
    ],
)
def test_trainings_that_cannot_be(
    call: Callable[..., tuple[object, str]], arguments: tuple[str, str]
) -> None:
    code, line = call(train.main, "run", *arguments)
    assert code == 2
    assert arguments[0] in line
    assert not Path("run").exists()


def test_what_is_missing_is_one_line(
    call: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise VideoError("a photograph is missing")

    monkeypatch.setattr(make_data, "random_scene", missing)
    monkeypatch.setattr(make_clip, "random_scene", missing)
    expected = (1, "error: a photograph is missing")
    assert call(partial(typer.run, make_data.main), "test", "data") == expected
    assert call(partial(typer.run, make_clip.main), "clip.mp4") == expected


class TestData:
    @needs_material
    def test_labels_of_an_earlier_run_go_first(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What an interruption leaves is no dataset: its pictures would not be those labelled."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        make_data.write_split(folder, "test", 1, 1, (90, 160), 1)
        monkeypatch.setattr(cv2, "imwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_data.write_split(folder, "test", 1, 1, (90, 160), 2)
        assert not (folder / "instances.json").exists()

    def test_labels_stay_where_nothing_can_be_drawn(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(*_: object, **__: object) -> None:
            raise VideoError("a photograph is missing")

        monkeypatch.setattr(make_data, "random_scene", missing)
        before = '{"info": {"description": "emoji over photographs, test, seed 0"}}'
        (folder / "instances.json").write_text(before)
        with pytest.raises(VideoError, match="a photograph is missing"):
            make_data.write_split(folder, "test", 1, 1, (90, 160), 1)
        assert (folder / "instances.json").read_text() == before

    @pytest.mark.parametrize("labels", ["{}", "[]", "text", '{"info": {"description": "cats"}}'])
    def test_labels_of_another_origin_stay(self, folder: Path, labels: str) -> None:
        (folder / "instances.json").write_text(labels)
        with pytest.raises(VideoError, match="was not written by this command"):
            make_data.write_split(folder, "test", 1, 1, (90, 160), 1)
        assert (folder / "instances.json").read_text() == labels

    @needs_material
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_is_no_dataset(self, folder: Path) -> None:
        images = folder / "JPEGImages" / "emoji001"
        images.mkdir(parents=True)
        (images / "00000.jpg").symlink_to("/dev/full")
        with pytest.raises(VideoError, match="cannot be written"):
            make_data.write_split(folder, "test", 1, 1, (90, 160), 1)
        assert not (folder / "instances.json").exists()


@needs_material
def test_a_clip_that_is_interrupted_is_not_there(
    call: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    monkeypatch.setattr(sys, "argv", ["command", "clip.mp4", "--frames", "2"])
    with pytest.raises(SystemExit) as left:
        typer.run(make_clip.main)
    assert left.value.code == 130
    assert not list(Path().iterdir())


class TestTraining:
    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
    def test_a_damaged_state(self, call: Callable[..., tuple[object, str]], content: bytes) -> None:
        Path("checkpoint.pt").write_bytes(content)
        code, line = call(train.main, ".", "--resume")
        assert code == 1
        assert line.startswith("error: checkpoint.pt is damaged, or not of this training")

    def test_the_state_of_another_model(self, folder: Path) -> None:
        for state in ({"seed": 0, "step": 1, "model": {}}, {"weights": torch.zeros(1)}, [1]):
            torch.save(state, folder / "other.pt")
            with pytest.raises(CheckpointError, match=r"other\.pt is damaged, or not of this"):
                resume(folder / "other.pt", CPU)

    def test_a_bit_that_flipped_in_the_state(self, folder: Path) -> None:
        path = folder / "checkpoint.pt"
        start(0, CPU).save(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged"):
            resume(path, CPU)

    def test_states_of_no_step_or_seed(self, folder: Path) -> None:
        path = folder / "checkpoint.pt"
        start(7, CPU).save(path)
        state = torch.load(path, weights_only=True)
        torch.save(state | {"step": NUM_STEPS}, path)
        learner = resume(path, CPU)
        assert (learner.seed, learner.step) == (7, NUM_STEPS)
        wrong = [{key: value} for key in ("seed", "step") for value in (-1, 1.5, math.inf)]
        for values in [{"step": NUM_STEPS + 1}, *wrong]:
            torch.save(state | values, path)
            with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged"):
                resume(path, CPU)

    @pytest.mark.parametrize("resumed", [(), ("--resume",)])
    def test_what_another_training_left_is_not_overwritten(
        self,
        call: Callable[..., tuple[object, str]],
        monkeypatch: pytest.MonkeyPatch,
        resumed: tuple[str, ...],
    ) -> None:
        monkeypatch.delattr(train, "start")  # a training that begins fails at once
        products = [f"{phase.name}.{kind}" for phase in PHASES for kind in ("pt", "safetensors")]
        for name in ("losses.csv", "validation.csv", *products):
            path = Path("run", name)
            path.parent.mkdir(exist_ok=True)
            path.write_text("of another")
            code, line = call(train.main, "run", *resumed)
            assert code == 2
            assert str(path) in line
            assert "remove what is listed, or name another folder" in line
            assert path.read_text() == "of another"
            path.unlink()

    def test_a_training_under_way_is_not_told_to_be_removed(
        self, call: Callable[..., tuple[object, str]]
    ) -> None:
        Path("losses.csv").touch()
        with FileLock(".lock"):
            code, line = call(train.main, ".")
        assert code == 1
        assert "another training is writing" in line

    def test_another_seed(self, call: Callable[..., tuple[object, str]]) -> None:
        start(3, CPU).save(Path("checkpoint.pt"))
        code, line = call(train.main, ".", "--resume", "--seed", "4")
        assert code == 1
        assert "is of seed 3, not 4" in line

    def test_a_second_one_in_the_folder(self, call: Callable[..., tuple[object, str]]) -> None:
        with FileLock(".lock"):
            code, line = call(train.main, ".")
        assert code == 1
        assert "another training is writing" in line

    def test_a_folder_that_is_a_file(self, call: Callable[..., tuple[object, str]]) -> None:
        Path("run").touch()
        code, line = call(train.main, "run")
        assert code == 1
        assert line.startswith("error: ")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_leaves_what_was_there(self, folder: Path) -> None:
        learner = start(0, CPU)
        learner.save(folder / "checkpoint.pt")
        before = (folder / "checkpoint.pt").read_bytes()
        (folder / "checkpoint.pt.part").symlink_to("/dev/full")
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be written"):
            learner.save(folder / "checkpoint.pt")
        assert (folder / "checkpoint.pt").read_bytes() == before
        assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]

    def test_products_that_cannot_be_written(self, folder: Path) -> None:
        (folder / "dense.safetensors.part").mkdir()
        state = start(0, CPU).mean.state_dict()
        with pytest.raises(CheckpointError, match=r"dense\.safetensors cannot be written"):
            save_weights(folder / "dense.safetensors", state, False)

    def test_a_line_that_is_cut_off_is_left_out(self, folder: Path) -> None:
        path = folder / "validation.csv"
        whole = "500,1,0.5,0.5,0.5,0.5,0,1"
        header = "step,loss,iou,class,found,tracked,false,kept"
        path.write_text(f"{header}\n{whole}\n\n1000,0.5,0.\n")
        train.Table(path, 2000)
        assert path.read_text().splitlines() == [header, whole]
        path.write_text(header[:9])
        train.Table(path, 2000).add(2500, {"loss": 1.0})
        assert path.read_text().splitlines()[0] == header

    @needs_material
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_a_signal_saves_and_ends_it(self, folder: Path, name: str) -> None:
        number = getattr(signal, name)
        command = [sys.executable, "-m", "examples.emoji_vis.train", "run", "--threads", "1"]
        root = Path(train.__file__).parents[2]
        environment = {**ENVIRONMENT, "PYTHONPATH": str(root)}
        with subprocess.Popen(
            command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert "a new training" in process.stderr.readline()
            process.send_signal(number)
            rest = process.stderr.read()
        assert process.returncode == 128 + number
        assert "Traceback" not in rest


class TestCurves:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "losses.csv cannot be read"),
            ("", "has no line yet"),
            ("step,loss\n", "has no line yet"),
            ("step,loss\n1,2\n", "is no table that a training writes"),
            ("\x00\n1\n", "is no table that a training writes"),
        ],
    )
    def test_tables_that_are_none(self, folder: Path, text: str | None, message: str) -> None:
        pytest.importorskip("matplotlib")
        if text is not None:
            (folder / "losses.csv").write_text(text)
        with pytest.raises(VppDeployError, match=message):
            plot.draw_curves(folder)

"""`run` on live input, sent over the loopback address."""

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import av
import pytest

from tests.command_line import COMMAND, ENVIRONMENT, fails, succeeds, vpp, wait_for
from tests.mini import ExportedMini
from tests.unit.video.senders import Repeating, Sender, WebServer
from tests.unit.video.synthetic import moving, write_video

COUNT = 12
SMALL, LARGE = (96, 128), (128, 160)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], bytes]:
    folder = tmp_path_factory.mktemp("streams")
    return {
        size: write_video(folder / f"{size[0]}.ts", moving(COUNT, *size)).read_bytes()
        for size in (SMALL, LARGE)
    }


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]


def sizes_of(path: Path) -> tuple[tuple[int, int], int]:
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
    return (frames[0].height, frames[0].width), len(frames)


def test_it_comes_back_with_another_size(
    streams: dict[tuple[int, int], bytes], mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    with Sender([streams[SMALL]], [streams[LARGE]]) as sender:
        result = vpp(
            *("run", sender.url, "--model", mini_bundle.folder, "--out", "out", "--annotate"),
            *("--reconnect", 1, "--timeout", 20, "--stop", 2 * COUNT),
            cwd=tmp_path,
        )
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    lines = lines_of(out)
    assert {line["index"]: line["reset"] for line in lines if line["reset"]} == {
        0: "start",
        COUNT: "reconnect",
    }
    sizes = [line["tracks"][0]["rle"]["size"] for line in lines if line["tracks"]]
    assert {tuple(size) for size in sizes} == {SMALL, LARGE}
    before = {track["id"] for line in lines[:COUNT] for track in line["tracks"]}
    after = {track["id"] for line in lines[COUNT:] for track in line["tracks"]}
    assert not before & after
    assert sizes_of(out / "annotated.mp4") == (SMALL, COUNT)
    assert sizes_of(out / "annotated-2.mp4") == (LARGE, COUNT)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["reconnects"], summary["ended_by"]) == (2 * COUNT, 1, None)
    assert summary["resets"] == {"reconnect": 1}
    assert summary["video"] == sender.url
    assert [note for note in summary["notes"] if "frames of 160x128 are letterboxed" in note]
    # Neither is for what has no end and cannot be read again.
    assert not (out / "results.json").exists()
    assert not (out / "state.npz").exists()


def test_it_ends_when_nobody_sends(
    streams: dict[tuple[int, int], bytes], mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    with Sender([streams[SMALL]]) as sender:
        result = vpp(
            *("run", sender.url, "--model", mini_bundle.folder, "--reconnect", 0.5), cwd=tmp_path
        )
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert sender.url in line
    assert "Traceback" not in result.stderr
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name == sender.url.replace("://", "-").replace(":", "-")
    assert len(lines_of(out)) == COUNT


def test_frames_are_dropped_and_counted(
    streams: dict[tuple[int, int], bytes], mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    """A sender of 1000 frames a second is more than the model can follow."""
    server = socket.create_server(("127.0.0.1", 0))
    url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    with (
        server,
        Repeating(streams[SMALL], COUNT, 1000.0).to_tcp(server),
        subprocess.Popen(
            [*COMMAND, "run", url, "--model", str(mini_bundle.folder), "--max-latency", "0.1"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        out = tmp_path / "runs" / url.replace("://", "-").replace(":", "-")
        lines = out / "frames.jsonl"
        assert wait_for(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 20)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - start < 30
    assert process.returncode == 130
    assert "Traceback" not in stderr
    summary = json.loads((out / "summary.json").read_text())
    indices = [line["index"] for line in lines_of(out)]
    assert summary["frames"] == len(indices)
    assert summary["frames_dropped"] >= indices[-1] + 1 - len(indices) > 0
    assert any("waited too long" in note for note in summary["notes"])


class TestRefused:
    def test_nobody_there(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        url = f"http://me:secret@127.0.0.1:{port}/live?key=secret"
        line = fails("run", url, "--model", mini_bundle.folder, cwd=tmp_path)
        assert f"http://127.0.0.1:{port}/live" in line
        assert "secret" not in line
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("option", ["--max-latency", "--reconnect"])
    def test_a_web_video_with_an_end(
        self, mini_bundle: ExportedMini, tmp_path: Path, option: str
    ) -> None:
        clip = write_video(tmp_path / "clip.mp4", moving(COUNT, *SMALL), faststart=True)
        with WebServer(clip.read_bytes(), tells_length=True) as server:
            url = f"http://127.0.0.1:{server.port}/clip.mp4"
            line = fails("run", url, "--model", mini_bundle.folder, option, 1, cwd=tmp_path)
        assert f"{option} is for live input" in line
        assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]

    def test_resuming(
        self, streams: dict[tuple[int, int], bytes], mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        (tmp_path / "clip.ts").write_bytes(streams[SMALL])
        model = ("--model", mini_bundle.folder, "--out", "out")
        succeeds("run", "clip.ts", *model, cwd=tmp_path)
        before = (tmp_path / "out" / "summary.json").read_text()
        with Sender([streams[SMALL]]) as sender:
            line = fails("run", sender.url, *model, "--resume", cwd=tmp_path)
        assert "cannot be resumed" in line
        assert (tmp_path / "out" / "summary.json").read_text() == before

    @pytest.mark.parametrize(
        "option", [("--max-latency", 1), ("--timeout", 5), ("--reconnect", 0), ("--timeout", "nan")]
    )
    def test_options_of_live_input_for_files(
        self, mini_bundle: ExportedMini, tmp_path: Path, option: tuple[object, ...]
    ) -> None:
        video = "tcp://127.0.0.1:9" if "nan" in option else "clip.ts"
        result = vpp("run", video, "--model", mini_bundle.folder, *option, cwd=tmp_path)
        assert result.returncode == 2
        assert str(option[0]) in result.stderr

"""Ctrl-C while a video that has an end keeps its reader waiting."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.unit.video.senders import PATIENCE_S, Sender
from tests.unit.video.synthetic import moving, write_video
from vpp_deploy.video.source import open_source

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")

COUNT = 30


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("waiting") / "clip.ts"
    return write_video(path, moving(COUNT)).read_bytes()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@contextmanager
def reader(place: object) -> Iterator[subprocess.Popen[str]]:
    """A process that says which frames it has."""
    code = (
        "from vpp_deploy.video.source import LiveOptions, open_source\n"
        "print('opening', flush=True)\n"
        f"with open_source({str(place)!r}, live=LiveOptions(timeout_s=60)) as source:\n"
        "    assert not source.live\n"
        "    for frame in source: print(frame.index, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs the tests in the background may have told them to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "opening\n"
            yield process
        finally:
            process.kill()


def assert_interruptible(process: subprocess.Popen[str], *, reads: bool) -> None:
    assert process.stdout is not None
    if reads:
        assert process.stdout.readline() == "0\n"
    time.sleep(1)  # until it waits: nothing tells from outside that it does
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S / 2)
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_nobody_opens_the_pipe(pipe: Path) -> None:
    with reader(pipe) as process:
        assert_interruptible(process, reads=False)


def test_a_pipe_that_stalls(pipe: Path, stream: bytes) -> None:
    with reader(pipe) as process, pipe.open("wb", buffering=0) as writer:
        writer.write(stream)
        assert_interruptible(process, reads=True)


def test_a_web_video_that_stalls(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving(COUNT), faststart=True).read_bytes()
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(clip)}\r\n\r\n".encode()
    connected = Event()
    with (
        Sender([answer + clip[: len(clip) * 3 // 4], connected.set, PATIENCE_S]) as sender,
        reader(sender.url.replace("tcp", "http") + "/clip.mp4") as process,
    ):
        assert connected.wait(PATIENCE_S)
        assert_interruptible(process, reads=True)


def test_a_pipe_is_read_like_a_file(pipe: Path, stream: bytes, tmp_path: Path) -> None:
    file = tmp_path / "clip.ts"
    file.write_bytes(stream)
    with subprocess.Popen(["cp", str(file), str(pipe)]), open_source(pipe) as source:
        ours = [(frame.index, frame.time_s, frame.rgb.tobytes()) for frame in source]
        assert not source.truncated
    with open_source(file) as source:
        assert ours == [(frame.index, frame.time_s, frame.rgb.tobytes()) for frame in source]

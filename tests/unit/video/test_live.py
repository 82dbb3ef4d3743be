import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from subprocess import PIPE
from threading import Event

import av
import numpy as np
import pytest

from tests.unit.video.senders import (
    PATIENCE_S,
    Repeating,
    Sender,
    WebServer,
    free_udp_port,
)
from tests.unit.video.synthetic import FPS, moving, write_video
from vpp_deploy.errors import VideoError
from vpp_deploy.video.source import Frame, LiveOptions, VideoSource, open_source

COUNT = 30
SMALL, LARGE = (96, 128), (128, 160)
PATIENT = LiveOptions(timeout_s=PATIENCE_S, reconnect_s=PATIENCE_S)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], bytes]:
    """The same 30 frames as MPEG-TS in two sizes."""
    folder = tmp_path_factory.mktemp("streams")
    return {
        size: write_video(folder / f"{size[0]}.ts", moving(COUNT, *size)).read_bytes()
        for size in (SMALL, LARGE)
    }


@pytest.fixture
def small(streams: dict[tuple[int, int], bytes]) -> bytes:
    return streams[SMALL]


@pytest.fixture
def large(streams: dict[tuple[int, int], bytes]) -> bytes:
    return streams[LARGE]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread and no socket."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else None
    yield
    for thread in ours():
        thread.join(PATIENCE_S)
    assert ours() == []
    if before is not None:
        assert len(list(descriptors.iterdir())) == before


def ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("vpp-deploy")]


def read(source: VideoSource, count: int) -> list[Frame]:
    """The next so many frames, or what there is."""
    return [frame for _, frame in zip(range(count), source, strict=False)]


def test_frames_come_in_order_as_they_arrive(small: bytes) -> None:
    sender = Sender([small])
    with sender, open_source(sender.url, stop=20, live=PATIENT) as source:
        assert source.live
        assert (source.path, source.name) == (None, sender.url)
        assert (source.frame_size, source.fps, source.num_frames) == (SMALL, FPS, 20)
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    for frame, expected in zip(frames, moving(20), strict=True):
        assert np.abs(frame.rgb.astype(int) - expected).mean() < 25
    times = [frame.time_s or 0.0 for frame in frames]
    assert times[0] == 0
    assert times == sorted(times)
    assert not any(frame.discontinuity for frame in frames)
    assert (source.frames_dropped, source.reconnects, source.truncated) == (0, 0, False)


def test_ranges_count_what_is_decoded(small: bytes) -> None:
    with Sender([small]) as sender, open_source(sender.url, 5, 25, 7, live=PATIENT) as source:
        assert [frame.index for frame in source] == [5, 12, 19]


def test_a_range_without_a_practical_end(small: bytes) -> None:
    with Sender([small]) as sender, open_source(sender.url, stop=10**30, live=PATIENT) as source:
        assert source.num_frames is None
        assert len(read(source, 2)) == 2


def test_a_connection_that_comes_back_with_another_size(small: bytes, large: bytes) -> None:
    sender = Sender([small], [large])
    with sender, open_source(sender.url, stop=COUNT + 20, live=PATIENT) as source:
        assert source.num_frames == COUNT + 20
        before = read(source, COUNT)
        assert source.frame_size == SMALL
        after = list(source)
        assert source.frame_size == LARGE
        assert source.reconnects == 1
    frames = before + after
    assert [frame.index for frame in frames] == list(range(COUNT + 20))
    assert [frame.rgb.shape[:2] for frame in frames] == [SMALL] * COUNT + [LARGE] * 20
    assert [frame.index for frame in frames if frame.discontinuity] == [COUNT]
    times = [frame.time_s or 0.0 for frame in frames]
    assert times == sorted(times)


def test_the_discontinuity_is_told_where_its_first_frame_is_not_wanted(small: bytes) -> None:
    sender = Sender([small], [small])
    with sender, open_source(sender.url, 0, COUNT + 21, 25, live=PATIENT) as source:
        told = [(frame.index, frame.discontinuity) for frame in source]
    assert told == [(0, False), (25, False), (50, True)]


def test_a_stream_may_change_its_size_by_itself(small: bytes, large: bytes) -> None:
    sender = Sender([small + large])
    with sender, open_source(sender.url, stop=COUNT + 20, live=PATIENT) as source:
        frames = list(source)
        assert source.reconnects == 0
    assert [frame.rgb.shape[:2] for frame in frames] == [SMALL] * COUNT + [LARGE] * 20
    assert not any(frame.discontinuity for frame in frames)


def test_it_gives_up_in_the_end(small: bytes) -> None:
    options = LiveOptions(timeout_s=PATIENCE_S, reconnect_s=1.2)
    with Sender([small]) as sender, open_source(sender.url, live=options) as source:
        assert source.num_frames is None
        assert len(read(source, COUNT)) == COUNT
        with pytest.raises(VideoError) as caught:
            next(iter(source))
    message = str(caught.value)
    assert message.startswith(f"{sender.url}: the connection was lost (the stream ended); ")
    assert "attempts in 1.2 s to connect again failed, the last: Connection refused" in message
    assert "\n" not in message


def test_no_time_to_reconnect(small: bytes) -> None:
    options = LiveOptions(timeout_s=PATIENCE_S, reconnect_s=0)
    with Sender([small]) as sender, open_source(sender.url, live=options) as source:
        assert len(read(source, COUNT)) == COUNT
        with pytest.raises(VideoError, match="no attempt to connect again was allowed"):
            next(iter(source))


def test_the_first_connection_is_tried_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://anna:geheim@127.0.0.1:{port}/cam?token=geheim"
    with pytest.raises(VideoError) as caught:
        open_source(url, live=PATIENT)
    assert str(caught.value) == (
        f"http://127.0.0.1:{port}/cam cannot be opened (Connection refused); check the address, "
        "and that it is sending"
    )
    assert "geheim" not in repr(caught.value.__cause__)


def test_a_sender_that_says_nothing() -> None:
    with (
        Sender([PATIENCE_S]) as sender,
        pytest.raises(VideoError, match=r"cannot be opened \(no data for 0.5 s\)"),
    ):
        open_source(sender.url, live=LiveOptions(timeout_s=0.5))


def test_a_sender_that_sends_no_video() -> None:
    with (
        Sender([b"hello world\n" * 5000]) as sender,
        pytest.raises(VideoError, match=r"cannot be opened|has no video|gave no frame"),
    ):
        open_source(sender.url, live=PATIENT)


def test_a_sender_that_stalls(small: bytes) -> None:
    options = LiveOptions(timeout_s=1.5, reconnect_s=0)
    with (
        Sender([small, PATIENCE_S]) as sender,
        open_source(sender.url, live=options) as source,
        pytest.raises(VideoError, match=r"connection was lost \(no data for 1.5 s\)"),
    ):
        list(source)


def test_sound_alone_keeps_no_connection(tmp_path: Path) -> None:
    stream = write_with_sound(tmp_path / "sound.ts", num_frames=COUNT, sound_s=40)
    script: list[bytes | float] = []
    for i in range(0, len(stream), 1316):
        script += [stream[i : i + 1316], 0.02]
    with (
        Sender(script) as sender,
        open_source(sender.url, live=LiveOptions(timeout_s=1.5, reconnect_s=0)) as source,
        pytest.raises(VideoError, match=r"connection was lost \(no frame for 1.5 s\)"),
    ):
        list(source)


def test_the_end_of_sound_is_no_damage(tmp_path: Path) -> None:
    stream = write_with_sound(tmp_path / "sound.ts", num_frames=COUNT, sound_s=1)
    sender = Sender([stream], [stream])
    with sender, open_source(sender.url, stop=COUNT + 10, live=PATIENT) as source:
        assert len(list(source)) == COUNT + 10
        assert source.reconnects == 1
        assert source.frames_skipped_corrupt == source.frames_damaged == 0


def write_with_sound(path: Path, num_frames: int, sound_s: int) -> bytes:
    """A video whose picture ends long before its sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.height, video.width = SMALL
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for i, image in enumerate(moving(num_frames, *SMALL)):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, FPS)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for i in range(sound_s * 44100 // 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.rate, silence.pts = 44100, 1024 * i
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path.read_bytes()


def test_a_slow_consumer_gets_young_frames(small: bytes) -> None:
    latency_s, work_s, slack_s = 0.4, 0.2, 0.6
    options = LiveOptions(PATIENCE_S, PATIENCE_S, latency_s)
    indices, lags = [], []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Repeating(small, COUNT, FPS).to_tcp(server),
        open_source(f"tcp://127.0.0.1:{server.getsockname()[1]}", live=options) as source,
    ):
        for frame in source:
            indices.append(frame.index)
            lags.append(time.monotonic() - (frame.time_s or 0.0))
            if len(indices) == 14:
                break
            time.sleep(work_s)
        assert source.frames_dropped > 0
        assert source.reconnects == 0
    assert indices == sorted(set(indices))
    assert indices[-1] - indices[0] > 2 * len(indices)  # it keeps up with the sender
    # The clock's reading at the first frame is unknown, but the youngest frame had hardly any lag.
    assert max(lags) - min(lags) < latency_s + slack_s


def test_a_latency_that_no_frame_keeps(small: bytes) -> None:
    with (
        Sender([small]) as sender,
        open_source(sender.url, stop=20, live=LiveOptions(PATIENCE_S, PATIENCE_S, 1e-7)) as source,
        pytest.raises(VideoError, match=r"all 20 frames of the range waited longer than 1e-07 s"),
    ):
        list(source)


def test_closing_while_the_network_is_silent(small: bytes) -> None:
    with Sender([small, PATIENCE_S]) as sender:
        source = open_source(sender.url, live=PATIENT)
        assert len(read(source, 3)) == 3
        start_s = time.monotonic()
        source.close()
        assert time.monotonic() - start_s < 0.5 * PATIENCE_S
        source.close()  # twice is allowed
        assert list(source) == []


@pytest.mark.parametrize("silence_s", [PATIENCE_S, 0.0], ids=["silent", "reconnecting"])
def test_closing_while_another_thread_waits(small: bytes, silence_s: float) -> None:
    with Sender([small, silence_s]) as sender:
        source = open_source(sender.url, live=PATIENT)
        seen: list[int] = []
        nearly_all = Event()

        def consume() -> None:
            for frame in source:
                seen.append(frame.index)
                if len(seen) >= COUNT - 5:  # the decoder may hold some back
                    nearly_all.set()

        consumer = threading.Thread(target=consume)
        consumer.start()
        assert nearly_all.wait(PATIENCE_S)
        source.close()
        consumer.join(0.5 * PATIENCE_S)
        assert not consumer.is_alive()


def test_leaving_early_closes_the_connection(small: bytes) -> None:
    with Sender([small * 200]) as sender, open_source(sender.url, live=PATIENT) as source:
        assert len(read(source, 2)) == 2
    # The sender's thread ends, because nobody is there to send to.


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.parametrize("opens", [False, True], ids=["opening", "reading"])
def test_ctrl_c_while_the_network_is_silent(small: bytes, opens: bool) -> None:
    connected = Event()
    with Sender([small if opens else b"", connected.set, PATIENCE_S]) as sender:
        code = (
            "from vpp_deploy.video.source import LiveOptions, open_source\n"
            f"with open_source({sender.url!r}, live=LiveOptions(timeout_s=60)) as source:\n"
            "    for frame in source: print(frame.index, flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            # What runs the tests in the background may have told them to ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert connected.wait(PATIENCE_S)
            if opens:
                assert process.stdout is not None
                assert process.stdout.readline() == "0\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_udp(small: bytes) -> None:
    port = free_udp_port()
    with (
        Repeating(small, COUNT, FPS).to_udp(port),
        open_source(f"udp://127.0.0.1:{port}", stop=15, live=PATIENT) as source,
    ):
        assert source.frame_size == SMALL
        assert [frame.index for frame in source] == list(range(15))


def test_a_web_stream_without_an_end(small: bytes) -> None:
    with WebServer(small, tells_length=False) as server:
        url = f"http://127.0.0.1:{server.port}/live.ts?key=1"
        with open_source(url, stop=20, live=PATIENT) as source:
            assert source.live
            assert source.name == f"http://127.0.0.1:{server.port}/live.ts"
            assert len(list(source)) == 20


def test_a_web_video_with_an_end_is_read_like_a_file(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving(COUNT), faststart=True, rotation=(90,))
    with WebServer(clip.read_bytes(), tells_length=True) as server:
        url = f"http://127.0.0.1:{server.port}/clip.mp4"
        with open_source(url, live=PATIENT) as source, open_source(clip) as file:
            assert not source.live
            assert (source.name, source.path) == (url, None)
            assert (source.frame_size, source.num_frames) == (file.frame_size, COUNT)
            for got, expected in zip(source, file, strict=True):
                assert (got.index, got.time_s) == (expected.index, expected.time_s)
                assert np.array_equal(got.rgb, expected.rgb)
            assert not source.truncated


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are read on Linux only")
@pytest.mark.parametrize("kind", [str, Path])
def test_no_such_camera(kind: type[str] | type[Path]) -> None:
    with pytest.raises(VideoError, match=r"/dev/video987 cannot be opened \(No such file"):
        open_source(kind("/dev/video987"))


@pytest.mark.parametrize("name", ["timeout_s", "reconnect_s", "max_latency_s"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_options_check_themselves(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        LiveOptions(**{name: value})

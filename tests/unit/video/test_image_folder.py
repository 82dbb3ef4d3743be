from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.video.synthetic import Image, corner_names, corners, picture
from vpp_deploy.errors import VideoError
from vpp_deploy.video.image_folder import natural_key
from vpp_deploy.video.source import Frame, open_source


def write(path: Path, rgb: Image) -> None:
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert ok
    path.write_bytes(data.tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve PNGs, img_0 to img_11, that differ in brightness."""
    path = tmp_path / "bilder ü 1"
    path.mkdir()
    for i in range(12):
        write(path / f"img_{i}.png", np.full((20, 30, 3), 10 * i, np.uint8))
    return path


def test_natural_order_without_times(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    (folder / "._img_3.png").write_bytes(b"what macOS leaves on foreign disks")
    with open_source(folder) as source:
        assert (source.frame_size, source.fps, source.num_frames) == ((20, 30), None, 12)
        frames = list(source)
        assert source.frames_skipped_corrupt == 0
    assert [int(frame.rgb[0, 0, 0]) for frame in frames] == [10 * i for i in range(12)]
    assert [frame.index for frame in frames] == list(range(12))
    assert {frame.time_s for frame in frames} == {None}


def test_natural_key_handles_mixed_names() -> None:
    names = ["b.png", "10.png", "2.png", "A1b2.png", "a1b10.png", "img.png", "a01.png", "a1.png"]
    ordered = [p.name for p in sorted(map(Path, names), key=natural_key)]
    assert ordered == [
        "2.png", "10.png", "a01.png", "a1.png", "A1b2.png", "a1b10.png", "b.png", "img.png"
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg", ".TIFF"])
def test_formats_in_rgb_order(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", corners(64, 96))
    with open_source(tmp_path) as source:
        assert corner_names(next(iter(source)).rgb) == "RGBW"


def test_gray_alpha_and_16_bit_images(tmp_path: Path) -> None:
    gray = picture(20, 30)[..., 0]
    cv2.imwrite(str(tmp_path / "0.png"), gray)
    cv2.imwrite(str(tmp_path / "1.png"), np.dstack([gray] * 4))
    cv2.imwrite(str(tmp_path / "2.png"), gray.astype(np.uint16) * 256)
    with open_source(tmp_path) as source:
        for frame in source:
            assert np.array_equal(frame.rgb, np.dstack([gray] * 3))


@pytest.mark.parametrize(
    ("orientation", "shown"), [(1, "RGBW"), (3, "WBGR"), (6, "BRWG"), (8, "GWRB")]
)
def test_exif_orientation(tmp_path: Path, orientation: int, shown: str) -> None:
    path = tmp_path / "photo.jpg"
    write(path, corners(64, 96))
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + bytes([orientation]) + b"\x00\x00"
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    app1 = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    data = path.read_bytes()
    path.write_bytes(data[:2] + app1 + data[2:])
    with open_source(tmp_path) as source:
        assert corner_names(next(iter(source)).rgb) == shown
        assert source.frame_size == ((64, 96) if orientation in (1, 3) else (96, 64))


@pytest.mark.parametrize(
    ("start", "stop", "stride"), [(0, None, 1), (2, 9, 3), (11, None, 1), (0, 100, 5)]
)
def test_ranges(folder: Path, start: int, stop: int | None, stride: int) -> None:
    with open_source(folder, start, stop, stride) as source:
        expected = list(range(12)[start:stop:stride])
        assert source.num_frames == len(expected)
        assert [frame.index for frame in source] == expected


def test_range_behind_the_end(folder: Path) -> None:
    with (
        open_source(folder, start=12) as source,
        pytest.raises(VideoError, match="it has 12 frames"),
    ):
        list(source)


def test_size_change_names_the_image(folder: Path) -> None:
    write(folder / "img_5.png", picture(20, 31))
    seen: list[Frame] = []
    with (
        open_source(folder) as source,
        pytest.raises(VideoError, match=r"image 5 \(img_5\.png\) is 31x20, but the first is 30x20"),
    ):
        seen.extend(source)  # what came before the error is kept
    assert [frame.index for frame in seen] == [0, 1, 2, 3, 4]


def test_unreadable_images_are_skipped_and_keep_their_index(folder: Path) -> None:
    (folder / "img_0.png").write_bytes(b"")
    (folder / "img_7.png").write_bytes(b"no image at all")
    with open_source(folder) as source:
        assert [frame.index for frame in source] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
        assert source.frames_skipped_corrupt == 2


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no readable image among 0 image files; expected.*\.png"):
        open_source(tmp_path)


def test_folder_of_broken_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(VideoError, match="no readable image among 1 image files"):
        open_source(tmp_path)

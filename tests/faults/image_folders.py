"""Folders of images: mixed, damaged, of odd modes, and some that claim to be huge."""

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from tests.faults.judging import Accept, Case, Make, Sound, Verdict, Wrong, results_of
from tests.faults.processes import Call
from tests.faults.videos import run_call
from tests.unit.video.synthetic import picture
from vpp_deploy.video.source import open_source

Fill = Callable[[Path], object]
"""Puts images into a folder, which has three sound ones already."""

_COUNT = 3
_SIZE = (96, 128)


_READ = "read.json"


def read_images(path: Path) -> None:
    """Reads a folder to its end, and writes down how many frames and how many skipped.

    Raises:
        VideoError: as `open_source`.
    """
    with open_source(path) as source:
        frames = sum(1 for _ in source)
        Path(_READ).write_text(json.dumps([frames, source.frames_skipped_corrupt]))


def cases() -> Iterator[Case]:
    """All of them."""
    for name, fill in _DAMAGE.items():
        yield Case("images damaged", name, _folder(fill), _counted(1), must=Verdict.SAID)
    for name in ("empty", "png-60000x60000"):
        make = _folder(_DAMAGE[name], run=True)
        yield Case("images damaged", f"run-{name}", make, _counted(1), must=Verdict.SAID)
    for suffix in ("png", "jpg", "webp", "tif", "bmp"):
        for seed in range(3):
            make = _folder(_flipped(suffix, seed))
            yield Case("images damaged", f"{suffix}-bits-{seed}", make, _counted(None))
        make = _folder(_cut(suffix))
        yield Case("images damaged", f"{suffix}-cut", make, _counted(1), must=Verdict.SAID)
    for name, fill in _MODES.items():
        yield Case("image form", name, _folder(fill), _counted(0), must=Verdict.HARMLESS)
    for name in ("png-16-bit-rgba", "among-other-files"):
        make = _folder(_MODES[name], run=True)
        yield Case("image form", f"run-{name}", make, _counted(0), must=Verdict.HARMLESS)
    for name, size in (("larger", (128, 128)), ("1-pixel", (1, 1)), ("turned", (128, 96))):
        make = _folder(_another(size), run=True)
        yield Case("images mixed", name, make, says=r"image 3 \(9\.png\) is")
    yield Case("images mixed", "all-damaged", _all_damaged, says="no readable image among 3")
    yield Case("images mixed", "none", lambda sound, folder: run_call(".", sound))
    yield Case("images mixed", "one-file", _one_file, _one_frame, must=Verdict.HARMLESS)


def _folder(fill: Fill, run: bool = False) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        images = folder / "images"
        images.mkdir()
        for i in range(_COUNT):
            cv2.imwrite(str(images / f"{i}.png"), picture(*_SIZE, seed=i))
        fill(images)
        return run_call("images", sound) if run else Call(("images",), read_images)

    return make


def _all_damaged(sound: Sound, folder: Path) -> Call:
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return run_call(".", sound)


def _one_file(sound: Sound, folder: Path) -> Call:
    cv2.imwrite(str(folder / "one.png"), picture(*_SIZE))
    return run_call("one.png", sound)


def _one_frame(sound: Sound, folder: Path) -> Verdict:
    frames, _, _ = results_of(folder / "out")
    if len(frames) != 1:
        raise Wrong(f"{len(frames)} frames")
    return Verdict.HARMLESS


def _counted(skipped: int | None) -> Accept:
    """Three frames and one more, unless it was skipped; None: either is right."""

    def accept(sound: Sound, folder: Path) -> Verdict:
        if (folder / _READ).exists():
            frames, said = json.loads((folder / _READ).read_text())
        else:
            lines, _, summary = results_of(folder / "out")
            frames = len(lines)
            said = sum("1 corrupt" in note for note in summary["notes"])
        if frames != _COUNT + 1 - said or (skipped is not None and said != skipped):
            raise Wrong(f"{frames} frames, {said} skipped")
        if skipped == 0:
            return Verdict.HARMLESS
        return Verdict.SAID if said else Verdict.OTHER

    return accept


def _another(size: tuple[int, int]) -> Fill:
    return lambda images: cv2.imwrite(str(images / "9.png"), picture(*size))


def _encoded(suffix: str) -> bytes:
    data: bytes = cv2.imencode(f".{suffix}", picture(*_SIZE, seed=9))[1].tobytes()
    return data


def _flipped(suffix: str, seed: int) -> Fill:
    def fill(images: Path) -> None:
        data, chance = bytearray(_encoded(suffix)), random.Random(seed)
        for _ in range(3):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (images / f"9.{suffix}").write_bytes(data)

    return fill


def _cut(suffix: str) -> Fill:
    def fill(images: Path) -> None:
        data = _encoded(suffix)
        (images / f"9.{suffix}").write_bytes(data[: len(data) // 2])

    return fill


def _bytes(content: bytes, name: str = "9.png") -> Fill:
    return lambda images: (images / name).write_bytes(content)


def _png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG whose header says what it likes; colour 0 gray, 2 RGB, 3 palette, 4 gray and alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + body + chunk(b"IEND", b"")


def _sound_png(depth: int, colour: int, bits: int) -> bytes:
    line = b"\0" + bytes(i % 251 for i in range(_SIZE[1] * bits // 8))
    return _png(_SIZE[1], _SIZE[0], depth, colour, line * _SIZE[0])


def _tiff(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (279, 1 << 30)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, *[0] * 6)


def _dangling(images: Path) -> None:
    (images / "9.png").symlink_to("nothing")


def _device(images: Path) -> None:
    (images / "9.png").symlink_to("/dev/null")


def _subfolder(images: Path) -> None:
    (images / "9.png").mkdir()


def _among_others(images: Path) -> None:
    for name, content in (("9.png", _encoded("png")), ("a.txt", b"x"), (".hidden.png", b"x")):
        (images / name).write_bytes(content)


def _floats(images: Path) -> None:
    cv2.imwrite(str(images / "9.tif"), picture(*_SIZE).astype(np.float32))


_DAMAGE: dict[str, Fill] = {
    "empty": _bytes(b""),
    "text": _bytes(b"hello world\n" * 100),
    "zeros": _bytes(bytes(10_000)),
    "header-only": _bytes(b"\x89PNG\r\n\x1a\n"),
    "png-without-data": _bytes(_png(128, 96)),
    "png-0x0": _bytes(_png(0, 0)),
    "png-60000x60000": _bytes(_png(60_000, 60_000)),
    "png-1000000000x1": _bytes(_png(1_000_000_000, 1)),
    "png-2147483647": _bytes(_png(2**31 - 1, 2**31 - 1)),
    "png-30000x30000": _bytes(_png(30_000, 30_000)),
    "png-of-depth-3": _bytes(_png(128, 96, depth=3)),
    "bmp-100000x100000": _bytes(_bmp(100_000, 100_000), "9.bmp"),
    "bmp-negative": _bytes(_bmp(-5, -(2**31)), "9.bmp"),
    "tiff-60000x60000": _bytes(_tiff(60_000, 60_000), "9.tif"),
    "ppm-of-999999999": _bytes(b"P6 999999999 999999999 255\n", "9.ppm"),
    "pgm-negative": _bytes(b"P5 -1 -1 255\n", "9.pgm"),
    "jpeg-of-65535": _bytes(
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3\1\x11\0\2\x11\0\3\x11\0\xff\xd9", "9.jpg"
    ),
    "webp-riff-only": _bytes(b"RIFF\xff\xff\xff\xffWEBPVP8L", "9.webp"),
    "svg": _bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "9.png"),
    "dangling-link": _dangling,
    "link-to-a-device": _device,
    "a-folder": _subfolder,
    "tiff-of-floats": _floats,
}
_MODES: dict[str, Fill] = {
    "png-1-bit": _bytes(_sound_png(1, 0, 1)),
    "png-2-bit": _bytes(_sound_png(2, 0, 2)),
    "png-gray": _bytes(_sound_png(8, 0, 8)),
    "png-16-bit-gray": _bytes(_sound_png(16, 0, 16)),
    "png-palette": _bytes(_sound_png(8, 3, 8)),
    "png-4-bit-palette": _bytes(_sound_png(4, 3, 4)),
    "png-gray-alpha": _bytes(_sound_png(8, 4, 16)),
    "png-16-bit-gray-alpha": _bytes(_sound_png(16, 4, 32)),
    "png-rgba": _bytes(_sound_png(8, 6, 32)),
    "png-16-bit-rgba": _bytes(_sound_png(16, 6, 64)),
    "jpeg-named-png": lambda images: _bytes(_encoded("jpg"))(images),
    "upper-case": lambda images: _bytes(_encoded("jpg"), "9.JPG")(images),
    "line-break-in-name": lambda images: _bytes(_encoded("png"), "a\nb\x1b[0m.png")(images),
    "no-utf-8-in-name": lambda images: _bytes(_encoded("png"), "9\udcff.png")(images),
    "among-other-files": _among_others,
}

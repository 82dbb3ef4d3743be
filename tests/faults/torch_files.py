"""Damaged files of torch, zip bombs, and what is no file."""

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.checkpoint_damage import (
    Content,
    compared,
    cut,
    export_call,
    exported,
    pth,
    read,
    safetensors,
    unchanged,
)
from tests.faults.judging import Case, Make, Sound, Verdict
from tests.faults.processes import Call


def cases() -> Iterator[Case]:
    """All of them."""
    yield Case("pth", "sound", read(".pth", pth), compared, must=Verdict.HARMLESS)
    for part in ("pickle", "tensor", "local header", "directory", "anywhere"):
        for seed in range(8):
            make = read(".pth", _flipped_pth(part, seed))
            yield Case("pth", f"{part.replace(' ', '-')}-bits-{seed}", make, unchanged)
    for tenths in range(0, 10, 2):
        make = exported(".pth", cut(pth, tenths / 10))
        yield Case("pth", f"cut-at-{tenths}0%", make)
    another = _archive(_set("../x/data.pkl", b"."))
    yield Case("pth", "pickle-elsewhere", read(".pth", another), unchanged)
    for name, records in _ARCHIVES.items():
        yield Case("pth", name, exported(".pth", records))
    for name, call in _ELSEWHERE.items():
        yield Case("pth", name, call)


def _flipped_pth(part: str, seed: int) -> Content:
    def content(sound: Sound) -> bytes:
        data, chance = bytearray(pth(sound)), random.Random(seed)
        with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
            infos = archive.infolist()
            pickled = next(info for info in infos if info.filename.endswith("data.pkl"))
            tensor = chance.choice([info for info in infos if "/data/" in info.filename])
            start, end = {
                "pickle": (pickled.header_offset + 64, pickled.header_offset + pickled.file_size),
                "tensor": (tensor.header_offset + 40, tensor.header_offset + 64 + tensor.file_size),
                "local header": (tensor.header_offset, tensor.header_offset + 30),
                "directory": (archive.start_dir, len(data)),
                "anywhere": (0, len(data)),
            }[part]
        data[chance.randrange(start, end)] ^= 1 << chance.randrange(8)
        return bytes(data)

    return content


def _archive(change: Callable[[dict[str, bytes]], object], **options: Any) -> Content:
    """The sound .pth with other records; `options` are of `zipfile.ZipFile`."""

    def content(sound: Sound) -> bytes:
        with zipfile.ZipFile(io.BytesIO(pth(sound))) as old:
            records = {info.filename.split("/", 1)[1]: old.read(info) for info in old.infolist()}
        change(records)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", **options) as new:
            for name, data in records.items():
                new.writestr(f"sound/{name}", data)
        return target.getvalue()

    return content


def _claims(field: int, value: int) -> Content:
    """One number of a tensor's entry in the directory; `field` is its offset in the entry."""

    def content(sound: Sound) -> bytes:
        data = bytearray(pth(sound))
        start = data.rindex(b"PK\1\2", 0, data.rindex(b"/data/"))
        struct.pack_into("<I", data, start + field, value)
        return bytes(data)

    return content


def _set(name: str, data: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda records: records.update({name: data})


def _drop(name: str) -> Callable[[dict[str, bytes]], object]:
    return lambda records: records.pop(name)


def _grown(records: dict[str, bytes]) -> None:
    records["data/0"] += bytes(4)


def _overlapping(sound: Sound) -> bytes:
    """A thousand entries of the directory for one and the same record."""
    data = pth(sound)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    first = data.index(b"PK\1\2", start)
    entry = data[first : data.index(b"PK\1\2", first + 4)]
    directory = entry * 1000
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1000, 1000, len(directory), start, 0)
    return data[:start] + directory + end


_ARCHIVES: dict[str, Content] = {
    "empty": lambda sound: b"",
    "text": lambda sound: b"hello world\n" * 100,
    "a-safetensors": safetensors,
    "zeros": lambda sound: bytes(1_000_000),
    "empty-archive": lambda sound: b"PK\5\6" + bytes(18),
    "bare-pickle": lambda sound: b"\x80\x02}q\0.",
    "tar": lambda sound: b"sound".ljust(257, b"\0") + b"ustar\0" + bytes(1000),
    "deflated": _archive(lambda records: None, compression=zipfile.ZIP_DEFLATED),
    "bzip2": _archive(lambda records: None, compression=zipfile.ZIP_BZIP2),
    "bomb": _archive(_set("data/0", bytes(1 << 28)), compression=zipfile.ZIP_DEFLATED),
    "pickle-bomb": _archive(_set("data.pkl", bytes(1 << 28)), compression=zipfile.ZIP_DEFLATED),
    "no-pickle": _archive(_drop("data.pkl")),
    "no-record": _archive(_drop("data/0")),
    "record-empty": _archive(_set("data/0", b"")),
    "record-too-large": _archive(_grown),
    "path-out": _archive(lambda records: records.update({"../../data/0": records.pop("data/0")})),
    "path-absolute": _archive(lambda records: records.update({"/data/0": records.pop("data/0")})),
    "big-endian": _archive(_set("byteorder", b"big")),
    "pickle-empty": _archive(_set("data.pkl", b"")),
    "pickle-text": _archive(_set("data.pkl", b"hello world")),
    "overlapping": _overlapping,
    "claims-4-gigabytes": _claims(24, 2**32 - 2),
    "claims-compressed-0": _claims(20, 0),
    "claims-offset": _claims(42, 2**31),
    "claims-zip64": _claims(24, 2**32 - 1),
    "claims-encryption": _claims(8, 0x00000001),
}


def _sparse(sound: Sound, folder: Path) -> Call:
    (folder / "bad.pth").touch()
    os.truncate(folder / "bad.pth", 1 << 30)
    return export_call("bad.pth", sound)


def _fifo(sound: Sound, folder: Path) -> Call:
    os.mkfifo(folder / "bad.pth")
    return export_call("bad.pth", sound)


def _device(sound: Sound, folder: Path) -> Call:
    (folder / "bad.pth").symlink_to("/dev/zero")
    return export_call("bad.pth", sound)


def _folder(sound: Sound, folder: Path) -> Call:
    (folder / "bad.pth").mkdir()
    return export_call("bad.pth", sound)


def _loop(sound: Sound, folder: Path) -> Call:
    (folder / "bad.pth").symlink_to("bad.pth")
    return export_call("bad.pth", sound)


_ELSEWHERE: dict[str, Make] = {
    "nothing": lambda sound, folder: export_call("nothing.pth", sound),
    "no-suffix": lambda sound, folder: export_call(str(sound.recipe), sound),
    "long-name": lambda sound, folder: export_call("x" * 300 + ".pth", sound),
    "sparse-gigabyte": _sparse,
    "pipe": _fifo,
    "device": _device,
    "folder": _folder,
    "link-to-itself": _loop,
}

"""Bundles of damaged, missing, swapped and special files."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.bundle_damage import (
    STAGES,
    Damage,
    Turns,
    damaged,
    refused,
    runs,
)
from tests.faults.judging import Case, Verdict
from vpp_deploy.manifests import MANIFEST_NAME


def cases() -> Iterator[Case]:
    """All of them."""
    turns = Turns()
    for seed in range(12):
        yield Case("bundle bits", f"manifest-{seed}", damaged(_flip(MANIFEST_NAME, seed)), runs)
    for stage in STAGES:
        for seed in range(5):
            yield refused("bundle bits", f"{stage}-{seed}", _flip(f"{stage}.onnx", seed), turns)
    for file in (MANIFEST_NAME, "stem.onnx", "head.onnx"):
        for name, damage in _of_file(file).items():
            yield refused("bundle files", f"{file.split('.')[0]}-{name}", damage, turns)
    for name, damage in _FILES.items():
        yield refused("bundle files", name, damage, turns)
    yield Case("bundle files", "one-more", damaged(_more), runs, must=Verdict.HARMLESS)


def _flip(name: str, seed: int) -> Damage:
    def damage(bundle: Path) -> None:
        data, chance = bytearray((bundle / name).read_bytes()), random.Random(seed)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (bundle / name).write_bytes(data)

    return damage


def _of_file(name: str) -> dict[str, Damage]:
    def rewrite(change: Callable[[bytes], bytes]) -> Damage:
        return lambda bundle: (bundle / name).write_bytes(change((bundle / name).read_bytes()))

    def link(target: str) -> Damage:
        def damage(bundle: Path) -> None:
            (bundle / name).unlink()
            (bundle / name).symlink_to(target)

        return damage

    def pipe(bundle: Path) -> None:
        (bundle / name).unlink()
        os.mkfifo(bundle / name)

    def folder(bundle: Path) -> None:
        (bundle / name).unlink()
        (bundle / name).mkdir()

    def grown(bundle: Path) -> None:
        os.truncate(bundle / name, 1 << 30)

    return {
        "missing": lambda bundle: (bundle / name).unlink(),
        "empty": rewrite(lambda data: b""),
        "cut": rewrite(lambda data: data[: len(data) // 2]),
        "longer": rewrite(lambda data: data + b"more"),
        "zeros": rewrite(lambda data: bytes(len(data))),
        "sparse-gigabyte": grown,
        "pipe": pipe,
        "folder": folder,
        "link-to-zeros": link("/dev/zero"),
        "link-to-nothing": link("nothing"),
        "link-to-itself": link(name),
    }


def _swap(bundle: Path) -> None:
    (bundle / "stem.onnx").rename(bundle / "aside")
    (bundle / "head.onnx").rename(bundle / "stem.onnx")
    (bundle / "aside").rename(bundle / "head.onnx")


def _more(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")


def _no_folder(bundle: Path) -> None:
    shutil.rmtree(bundle)


def _file_instead(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.write_text("x")


def _manifest_alone(bundle: Path) -> None:
    for graph in bundle.glob("*.onnx"):
        graph.unlink()


_FILES: dict[str, Damage] = {
    "swapped": _swap,
    "no-folder": _no_folder,
    "a-file": _file_instead,
    "manifest-alone": _manifest_alone,
}

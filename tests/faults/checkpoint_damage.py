"""A damaged checkpoint, and what reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.numpy import load_file

from tests.faults.judging import Make, Sound, Verdict, Wrong
from tests.faults.processes import Call
from tests.mini import CLASSES, mini_config
from vpp_deploy.checkpoints.formula import config_text
from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.checkpoints.reader import read_checkpoint
from vpp_deploy.recipe_files import load_recipe

Content = Callable[[Sound], bytes]
"""Of a checkpoint's file."""

_SAID = "said.json"


def read_and_compare(path: Path, recipe: Path, undamaged: Path) -> None:
    """Reads a checkpoint, as far as an export would take it, and compares it with the undamaged.

    Raises:
        VppDeployError: as `read_checkpoint` and `build_model`.
    """
    ours, theirs = read_checkpoint(path), read_checkpoint(undamaged)
    equal = (ours.config_text, ours.classes) == (theirs.config_text, theirs.classes)
    if (
        not equal
        or ours.tensors.keys() != theirs.tensors.keys()
        or not all(torch.equal(ours.tensors[key], tensor) for key, tensor in theirs.tensors.items())
    ):
        build_model(ours, load_recipe(recipe).model)
        equal = False
    Path(_SAID).write_text(json.dumps("HARMLESS" if equal else "OTHER"))


def compared(sound: Sound, folder: Path) -> Verdict:
    """What `read_and_compare` saw."""
    return Verdict[json.loads((folder / _SAID).read_text())]


def unchanged(sound: Sound, folder: Path) -> Verdict:
    """Of a file with checksums: only what is no part of the weights can be damaged unnoticed."""
    if compared(sound, folder) is not Verdict.HARMLESS:
        raise Wrong("other weights, although the file has checksums")
    return Verdict.HARMLESS


def exported(suffix: str, content: Content) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        (folder / f"bad{suffix}").write_bytes(content(sound))
        return export_call(f"bad{suffix}", sound)

    return make


def run_model(suffix: str, content: Content) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        (folder / f"bad{suffix}").write_bytes(content(sound))
        model = ("--model", f"bad{suffix}", "--rule", "budgets", "--recipe", str(sound.recipe))
        size = ("--size", "96x128", "--threads", "1")
        return Call(("run", str(sound.clip), *model, *size, "--out", "out"))

    return make


def export_call(name: str, sound: Sound) -> Call:
    return Call(("export", name, "--recipe", str(sound.recipe), "--out", "out"))


def read(suffix: str, content: Content) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        (folder / f"bad{suffix}").write_bytes(content(sound))
        arguments = (f"bad{suffix}", str(sound.recipe), str(sound.checkpoint))
        return Call(arguments, read_and_compare)

    return make


def cut(content: Content, share: float) -> Content:
    def cut(sound: Sound) -> bytes:
        data = content(sound)
        return data[: int(len(data) * share)]

    return cut


def safetensors(sound: Sound) -> bytes:
    return sound.checkpoint.read_bytes()


def pth(sound: Sound) -> bytes:
    """The sound checkpoint as torch writes it, with what training leaves in it."""
    path = sound.clip.with_name("sound.pth")
    if not path.exists():
        state = {key: torch.from_numpy(value) for key, value in load_file(sound.checkpoint).items()}
        meta = {"cfg": config_text(mini_config()), "dataset_meta": {"classes": CLASSES}}
        torch.save({"state_dict": state, "meta": meta, "optimizer": {"lr": 0.1}}, path)
    return path.read_bytes()

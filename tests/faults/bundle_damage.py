"""A copy of the sound bundle, damaged, and a command that gets it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.judging import Case, Make, Sound, Verdict, Wrong, results_of, same_tracks
from tests.faults.processes import Call
from vpp_deploy.manifests import MANIFEST_NAME

Document = dict[str, Any]

Damage = Callable[[Path], object]
"""Of a copy of the bundle."""

STAGES = ("stem", "selector", "trunk", "head")

COMMANDS = ("run", "verify", "profile", "build-engine", "inspect")


class Turns:
    """Commands, one after the other."""

    def __init__(self) -> None:
        self._number = -1

    def next(self) -> str:
        self._number += 1
        return COMMANDS[self._number % len(COMMANDS)]


def refused(kind: str, name: str, damage: Damage, commands: Turns) -> Case:
    return Case(kind, name, damaged(damage, commands.next()))


def damaged(damage: Damage, command: str = "run") -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        shutil.copytree(sound.bundle, folder / "bad")
        damage(folder / "bad")
        video, out, one = str(sound.clip), ("--out", "out"), ("--threads", "1")
        arguments = {
            "run": (video, "--model", "bad", *out, *one),
            "verify": ("bad", "--against", str(sound.bundle), "--video", video, *one),
            "profile": ("bad", "--video", video, "--frames", "2"),
            "build-engine": ("bad", *out, "--checkpoint", str(sound.checkpoint)),
            "inspect": ("bad",),
        }[command]
        return Call((command, *arguments))

    return make


def runs(sound: Sound, folder: Path) -> Verdict:
    """A bundle whose graphs are sound gives what it always gives."""
    frames, _, _ = results_of(folder / "out")
    expected, _, _ = results_of(sound.results)
    if not same_tracks(frames, expected):
        raise Wrong("other results")
    return Verdict.HARMLESS


def edit(change: Callable[[Document], object]) -> Damage:
    """A manifest of other fields; hashes are made right again where files are still there."""

    def damage(bundle: Path) -> None:
        path = bundle / MANIFEST_NAME
        document: Document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return damage

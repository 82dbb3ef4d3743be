"""All cases, and the undamaged input that they start from."""

import fnmatch
import shutil
from pathlib import Path

from tests.faults import (
    bundle_files,
    graph_files,
    hostile_pickles,
    image_folders,
    manifest_fields,
    recipe_texts,
    safetensors_files,
    torch_files,
    video_forms,
    videos,
)
from tests.faults.judging import Case, Sound, Verdict, Wrong, judge
from tests.faults.processes import invoke, start_server

_PARTS = (
    videos,
    video_forms,
    image_folders,
    safetensors_files,
    torch_files,
    hostile_pickles,
    bundle_files,
    manifest_fields,
    graph_files,
    recipe_texts,
)

KNOWN: dict[str, str] = {}
"""Patterns of cases that do not end as they should yet, and why."""


def known(case: Case) -> str | None:
    """Why a case is known to fail; None: it must not."""
    reasons = [why for name, why in KNOWN.items() if fnmatch.fnmatchcase(case.id, name)]
    return reasons[0] if reasons else None


def all_cases() -> list[Case]:
    """Every case, classes one after the other."""
    cases = [case for part in _PARTS for case in part.cases()]
    assert len({case.id for case in cases}) == len(cases)
    return cases


def make_sound(folder: Path, checkpoint: Path, recipe: Path, bundle: Path) -> Sound:
    """Undamaged input in `folder`, and what `run` makes of it; starts the server."""
    start_server()
    work = folder / "work"
    work.mkdir(parents=True)
    sound = Sound(checkpoint, recipe, bundle, folder / "sound.mp4", work / "out")
    videos.sound_video(sound, videos.FORMS[0])
    ended = invoke(videos.run_call(str(sound.clip), sound), work)
    assert ended.code == 0, ended.stderr
    return sound


def try_case(case: Case, sound: Sound, folder: Path) -> Verdict:
    """Makes a case's input in `folder`, calls, and judges; what went well is removed.

    Raises:
        Wrong: see `judge`; the folder stays.
    """
    folder.mkdir(parents=True)
    try:
        call = case.make(sound, folder)
    except (ValueError, OSError, RuntimeError) as error:
        raise Wrong(f"the case cannot be made: {error!r}") from error
    ended = invoke(call, folder)
    verdict = judge(case, ended, sound, folder)
    shutil.rmtree(folder)
    for said in folder.parent.glob(f"{folder.name}.said*"):
        shutil.rmtree(said)
    return verdict

"""What a case is, and what may come of it."""

import enum
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.processes import Call, Ended
from vpp_deploy.errors import BundleError
from vpp_deploy.manifests import MANIFEST_NAME, read_manifest

MARKER = "marker"
"""The file that hostile content tries to make in its current folder."""

MAX_PEAK_MB = 1500.0
"""The libraries alone, forked with the process, take 600."""

_MAX_LINE = 1100
_BESIDE_ERRORS = re.compile(
    r"frames? |note: |\s*$"
    # libpng, libjpeg and OpenCV write there themselves.
    r"|libpng (warning|error): |(Corrupt JPEG|Premature end of JPEG|Invalid SOS) |\[ ?(WARN|ERROR):"
)
"""Lines that may stand on stderr before the error: of the progress bar, notes, and chatter."""


class Verdict(enum.Enum):
    """How a case may end."""

    REFUSED = "refused in a line"
    SAID = "accepted, damage said"
    HARMLESS = "accepted, same result"
    OTHER = "accepted, read as any reader would"
    """Content that was changed without a trace: no checksum, no error of the decoder."""


class Wrong(AssertionError):  # noqa: N818 (reads as what it says)
    """A case that ended as none may."""


@dataclass(frozen=True)
class Sound:
    """Undamaged input, to be damaged in copies.

    Attributes:
        checkpoint: the small model's, .safetensors.
        recipe: to export it by.
        bundle: exported from these.
        clip: a video of `tests.faults.videos.FRAMES` frames.
        results: what the bundle makes of it: the output folder of `run`.
    """

    checkpoint: Path
    recipe: Path
    bundle: Path
    clip: Path
    results: Path


Make = Callable[[Sound, Path], Call]
"""Makes a case's damaged input in its folder, which is empty, and says what to call there."""

Accept = Callable[[Sound, Path], Verdict]
"""Judges what a call has left that ended without an error. Raises Wrong."""


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        kind: class of the fault.
        name: within the class.
        make: see there.
        accept: None: it must be refused.
        must: the one verdict that is right; None: whatever `accept` says, or a refusal.
        says: a pattern that the refusal must have.
        max_peak_mb: most memory.
    """

    kind: str
    name: str
    make: Make
    accept: Accept | None = None
    must: Verdict | None = None
    says: str = ""
    max_peak_mb: float = MAX_PEAK_MB

    @property
    def id(self) -> str:
        """Names it: CLASS/NAME."""
        return f"{self.kind}/{self.name}"


def judge(case: Case, ended: Ended, sound: Sound, folder: Path) -> Verdict:
    """What came of a case.

    Raises:
        Wrong: what may not come of any.
    """
    check_ended(ended)
    if ended.peak_mb > case.max_peak_mb:
        raise Wrong(f"it took {ended.peak_mb:.0f} MB")
    if list(folder.rglob(MARKER)):
        raise Wrong("hostile content was run")
    check_nothing_half_written(folder)
    if ended.code == 1:
        verdict = Verdict.REFUSED
        if not re.search(case.says, ended.stderr):
            raise Wrong(f"refused, but not for {case.says!r}: {ended.stderr}")
    elif case.accept is None:
        raise Wrong(f"accepted: {ended.stdout[-500:]}")
    else:
        verdict = case.accept(sound, folder)
    if case.must not in (None, verdict):
        raise Wrong(f"{verdict.value}: {ended.stderr[-500:]}")
    return verdict


def check_ended(ended: Ended) -> None:
    """Exit code 0, or 1 with one line that says why.

    Raises:
        Wrong: it hung, crashed, left a traceback, or said it otherwise.
    """
    if ended.code is None:
        raise Wrong("it hangs")
    if ended.code < 0:
        raise Wrong(f"it crashed with signal {-ended.code}")
    if "Traceback" in ended.stderr + ended.stdout or ended.code not in (0, 1):
        raise Wrong(f"exit code {ended.code}: {ended.stderr[-3000:]}")
    lines = ended.stderr.splitlines()
    if ended.code == 1:
        if not lines or not lines[-1].startswith("error: "):
            raise Wrong(f"exit code 1, and the last line is no error: {ended.stderr[-1000:]}")
        line = lines.pop()
        if len(line) > _MAX_LINE or not line.isprintable() or line == "error: ":
            raise Wrong(f"a line that nobody can read: {line[:2000]!r}")
    for line in lines:
        if not _BESIDE_ERRORS.match(line):
            raise Wrong(f"said on stderr: {line[:500]!r}")


def check_nothing_half_written(folder: Path) -> None:
    """No folder that was written aside, and no bundle that differs from its manifest but loads.

    Raises:
        Wrong: naming what is there.
    """
    for path in folder.rglob("*"):
        if path.name.endswith(".part") or (path.is_dir() and path.name.startswith(".")):
            raise Wrong(f"left behind: {path.relative_to(folder)}")


def loads(folder: Path) -> bool:
    """Whether a later command would take `folder` for a bundle or an engine."""
    if not (folder / MANIFEST_NAME).exists():
        return False
    try:
        read_manifest(folder)
    except BundleError:
        return False
    return True


def results_of(out: Path) -> tuple[list[dict[str, Any]], list[Any], dict[str, Any]]:
    """Frames, tracks and summary of a run, which must fit each other.

    Raises:
        Wrong: they do not.
    """
    frames = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    tracks = json.loads((out / "results.json").read_text())
    summary = json.loads((out / "summary.json").read_text())
    if not len(frames) == summary["frames"] or len(tracks) != summary["tracks"]:
        raise Wrong(f"{len(frames)} frames, {len(tracks)} tracks, and the summary says {summary}")
    if any(len(track["segmentations"]) != len(frames) for track in tracks):
        raise Wrong("a track's masks are not one for each frame")
    return frames, tracks, summary


def same_tracks(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    """Whether two runs found the same, times and latencies aside."""
    return [frame["tracks"] for frame in ours] == [frame["tracks"] for frame in theirs]

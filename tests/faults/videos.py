"""Damaged videos: cut, flipped, mislabelled, and what is no video at all."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.faults.judging import Case, Make, Sound, Verdict, Wrong, results_of, same_tracks
from tests.faults.processes import Call, invoke
from tests.mini import INPUT_SIZE
from tests.unit.video.synthetic import packet_places, write_video
from vpp_deploy.video.source import open_source
from vpp_deploy.video.synthetic import moving_scene

FRAMES = 4
SEEDS = 6

Damage = Callable[[Path], bytes]
"""Undamaged file to damaged content."""

_SAID = "said.json"


@dataclass(frozen=True)
class Form:
    """A way to write a video."""

    suffix: str
    codec: str
    pix_fmt: str
    faststart: bool = False


FORMS = (
    Form("mp4", "libx264", "yuv420p", faststart=True),
    Form("m4v", "libx264", "yuv420p"),
    Form("ts", "libx264", "yuv420p"),
    Form("avi", "mpeg4", "yuv420p"),
    Form("mjpeg.avi", "mjpeg", "yuvj420p"),
    Form("mkv", "ffv1", "bgr0"),
    Form("webm", "libvpx-vp9", "yuv420p"),
    Form("mov", "png", "rgb24"),
    Form("mpg", "mpeg2video", "yuv420p"),
    Form("flv", "flv", "yuv420p"),
)


def sound_video(sound: Sound, form: Form) -> Path:
    """The scene in this form, made once."""
    path = sound.clip.with_name(f"sound.{form.suffix}")
    if not path.exists():
        images = [frame.rgb for frame in moving_scene(INPUT_SIZE, FRAMES, 0)]
        write_video(path, images, form.codec, form.pix_fmt, form.faststart, gop=2)
    return path


def read_video(path: Path, undamaged: Path) -> None:
    """Reads a video to its end, and writes down what that says and how it compares.

    Raises:
        VideoError: as `open_source`.
        Wrong: what comes of it is not what FFmpeg says when it is asked in the simplest way.
    """
    with open_source(path) as source:
        ours = [frame.rgb for frame in source]
        damage = source.frames_skipped_corrupt + source.frames_damaged + source.truncated
    verdict = Verdict.SAID
    if not damage:
        with open_source(undamaged) as source:
            theirs = [frame.rgb for frame in source]
        equal = len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
        verdict = Verdict.HARMLESS if equal else Verdict.OTHER
        _check_plainly(path, ours)
    Path(_SAID).write_text(json.dumps(verdict.name))


def _check_plainly(path: Path, ours: list[NDArray[np.uint8]]) -> None:
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture(local=False) as logs, av.open(str(path)) as container:
        name = container.streams.video[0].codec_context.name
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    complaints = [text for level, who, text in logs if who == name and level <= av.logging.ERROR]
    if complaints:
        raise Wrong(f"nothing is said of the damage, but FFmpeg logs {complaints[0]!r}")
    if len(plain) != len(ours) or not all(map(np.array_equal, plain, ours)):
        raise Wrong("other frames than FFmpeg gives when asked in the simplest way")


def video_read(sound: Sound, folder: Path) -> Verdict:
    """What `read_video` saw."""
    return Verdict[json.loads((folder / _SAID).read_text())]


def video_run(sound: Sound, folder: Path) -> Verdict:
    """Compares what a run says of `bad.*` with what reading that says."""
    frames, _, summary = results_of(folder / "out")
    (path,) = folder.glob("bad.*")
    form = next(form for form in FORMS if path.name == f"bad.{form.suffix}")
    undamaged = str(sound_video(sound, form))
    ended = invoke(Call((str(path), undamaged), read_video), folder)
    if ended.code != 0:
        raise Wrong(f"it runs, but reading says {ended.stderr[-500:]}")
    verdict = video_read(sound, folder)
    noted = any("corrupt" in note or "damage" in note for note in summary["notes"])
    if noted != (verdict is Verdict.SAID):
        raise Wrong(f"reading ends {verdict.value}, the summary notes {summary['notes']}")
    if verdict is Verdict.HARMLESS and path.suffix == sound.clip.suffix:
        expected, _, _ = results_of(sound.results)
        if not same_tracks(frames, expected):
            raise Wrong("other results of the same frames")
    return verdict


def cases() -> Iterator[Case]:
    """All of them."""
    for form in FORMS:
        for tenths in (1, 3, 5, 7, 9):
            name = f"{form.suffix}-at-{tenths}0%"
            yield Case("video cut", name, _damaged(form, _cut(tenths / 10)), video_read)
        yield Case("video cut", f"{form.suffix}-last-byte", _damaged(form, _cut(-1)), video_read)
        for seed in range(SEEDS):
            name = f"{form.suffix}-{seed}"
            yield Case("video bits", name, _damaged(form, _flip(seed)), video_read)
        for seed in range(2):
            name = f"{form.suffix}-zeros-{seed}"
            yield Case("video bits", name, _damaged(form, _zeros(seed)), video_read)
        yield Case("video header", f"{form.suffix}-zeros", _damaged(form, _head(0)), video_read)
        yield Case("video header", f"{form.suffix}-ones", _damaged(form, _head(255)), video_read)
        other = FORMS[FORMS.index(form) - 1].suffix.split(".")[-1]
        name = f"{form.suffix}-named-{other}"
        make = _named(form, f"x.{other}")
        yield Case("video header", name, make, video_read, must=Verdict.HARMLESS)
    for form in (FORMS[0], FORMS[2], FORMS[4]):
        for tenths in (4, 8):
            make = _damaged(form, _cut(tenths / 10), run=True)
            yield Case("video cut", f"run-{form.suffix}-at-{tenths}0%", make, video_run)
        for seed in range(3):
            make = _damaged(form, _flip(100 + seed), run=True)
            yield Case("video bits", f"run-{form.suffix}-{seed}", make, video_run)


def run_call(video: str, sound: Sound) -> Call:
    """`run` on the sound bundle."""
    model = str(sound.bundle)
    return Call(("run", video, "--model", model, "--out", "out", "--threads", "1"))


def _damaged(form: Form, damage: Damage, run: bool = False) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        undamaged = sound_video(sound, form)
        path = folder / f"bad.{form.suffix}"
        path.write_bytes(damage(undamaged))
        if run:
            return run_call(path.name, sound)
        return Call((path.name, str(undamaged)), read_video)

    return make


def _named(form: Form, name: str) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        undamaged = sound_video(sound, form)
        (folder / name).write_bytes(undamaged.read_bytes())
        return Call((name, str(undamaged)), read_video)

    return make


def _cut(share: float) -> Damage:
    """The front part; a negative share takes the last byte off."""
    return lambda path: path.read_bytes()[: -1 if share < 0 else int(path.stat().st_size * share)]


def _head(value: int) -> Damage:
    return lambda path: bytes([value]) * 64 + path.read_bytes()[64:]


def _flip(seed: int) -> Damage:
    """Three bits, of which two in frames."""

    def damage(path: Path) -> bytes:
        data, chance = bytearray(path.read_bytes()), random.Random(seed)
        packets = packet_places(path)
        start, size = chance.choice(packets)
        places = [chance.randrange(start, start + size) for _ in range(2)]
        for place in (*places, chance.randrange(len(data))):
            data[place] ^= 1 << chance.randrange(8)
        return bytes(data)

    return damage


def _zeros(seed: int) -> Damage:
    """A sixteenth of the file, as a lost block of a disk."""

    def damage(path: Path) -> bytes:
        data = bytearray(path.read_bytes())
        size = len(data) // 16
        start = random.Random(seed).randrange(len(data) - size)
        data[start : start + size] = bytes(size)
        return bytes(data)

    return damage

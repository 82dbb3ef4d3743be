"""The classes, and the emoji that stand for them.

The artwork is the bitmap font of Debian's `fonts-noto-color-emoji` (SIL Open Font License 1.1).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import VideoError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_FONT_SIZE = 109
"""The only size that the font's bitmaps have."""

# Of the classes of YouTube-VIS 2021. Behind the bar: drawings that training never sees.
_DRAWINGS = """
airplane     ✈ 🛩
bear         🐻
bird         🐦 🦅 🕊 | 🦉
boat         ⛵ 🚤 🛥 | ⛴
car          🚗 🚙 🚓 | 🚕
cat          🐈 🐱
cow          🐄 🐮
dog          🐕 🐶 🐩 | 🦮
duck         🦆
elephant     🐘
fish         🐟 🐠 | 🐡
fox          🦊
frog         🐸
giant_panda  🐼
giraffe      🦒
horse        🐎 🐴
monkey       🐒 🐵
parrot       🦜
rabbit       🐇 🐰
shark        🦈
tiger        🐅 🐯
train        🚆 🚂 🚄 | 🚅
truck        🚚 🚒 | 🚛
turtle       🐢
whale        🐋 🐳
zebra        🦓
"""

CLASSES = tuple(line.split()[0] for line in _DRAWINGS.strip().splitlines())


@dataclass(frozen=True)
class Drawing:
    """One emoji.

    Attributes:
        label: index into `CLASSES`.
        text: the emoji itself.
        seen: whether training sees it.
    """

    label: int
    text: str
    seen: bool


def _parse() -> tuple[Drawing, ...]:
    drawings = []
    for label, line in enumerate(_DRAWINGS.strip().splitlines()):
        seen, _, unseen = line.partition("|")
        drawings += [Drawing(label, text, True) for text in seen.split()[1:]]
        drawings += [Drawing(label, text, False) for text in unseen.split()]
    return tuple(drawings)


DRAWINGS = _parse()


@cache
def sprite(text: str) -> tuple[NDArray[np.float32], ...]:
    """An emoji at full, half and a quarter of its size, each (height, width, 4).

    Red, green, blue and alpha from 0 to 1, the colours multiplied by alpha, with a border of
    transparent pixels.

    Raises:
        VideoError: the font is not installed.
    """
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.truetype(str(FONT), _FONT_SIZE)
    except OSError as error:
        raise VideoError(
            f"{FONT} cannot be read ({error}); install Debian's fonts-noto-color-emoji"
        ) from error
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    assert box is not None, f"{text!r} is not in the font"
    rgba = np.asarray(canvas.crop(box), np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    levels = [rgba]
    for _ in range(2):
        height, width = levels[-1].shape[:2]
        half = cv2.resize(
            levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA
        )
        levels.append(np.asarray(half, np.float32))
    return tuple(np.pad(level, ((2, 2), (2, 2), (0, 0))) for level in levels)

"""Drawing tracks onto a frame: translucent masks, boxes and labels."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.results import Tracks

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PX = 22.0  # height of a capital letter at font scale 1
_MASK_OPACITY = 0.45
_GOLDEN_RATIO = 0.618033988749895

Colour = tuple[int, int, int]


def draw_tracks(
    rgb: NDArray[np.uint8], tracks: Tracks, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw the tracks of one frame, the best score on top; empty masks (box of zeros) are left out.

    Args:
        rgb: (H, W, 3) uint8, left as it is.
        tracks: tracks with masks at the frame's size.
        classes: class names by label.

    Returns:
        (H, W, 3) uint8, a new image.
    """
    canvas = rgb.copy()
    style = _Style.for_size(*rgb.shape[:2])
    order = [i for i in np.argsort(tracks.scores, kind="stable") if tracks.boxes[i].any()]
    for i in order:
        _draw_mask(
            canvas, tracks.masks[i], tracks.boxes[i], track_colour(int(tracks.ids[i])), style
        )
    # Labels come after all masks, or the next mask would tint them.
    for i in order:
        text = f"{tracks.ids[i]} {classes[tracks.labels[i]]} {tracks.scores[i]:.2f}"
        _draw_label(canvas, text, tracks.boxes[i], track_colour(int(tracks.ids[i])), style)
    return canvas


def track_colour(track_id: int) -> Colour:
    """Give a track its RGB colour, the same in every frame.

    Steps of the golden ratio spread the hues evenly however many tracks there are; brightness and
    saturation alternate, so that hues which come close after a few steps differ in tone.
    """
    hue = (track_id * _GOLDEN_RATIO) % 1.0
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.78))[track_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True)
class _Style:
    """Line width and text size in pixels, in proportion to the picture."""

    line: int
    text_px: int

    @classmethod
    def for_size(cls, height: int, width: int) -> "_Style":
        short = min(height, width)
        return cls(line=max(1, round(short / 450)), text_px=max(9, round(short / 55)))


def _draw_mask(
    canvas: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    box: NDArray[np.float32],
    colour: Colour,
    style: _Style,
) -> None:
    """Tint the mask and outline it and its box; work is confined to the box, which is tight."""
    x1, y1, x2, y2 = _corners(box)
    inside = mask[y1:y2, x1:x2].view(np.uint8)
    region = canvas[y1:y2, x1:x2]
    cv2.copyTo(cv2.LUT(region, _tints(colour)), inside, dst=region)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x1, y1))
    cv2.drawContours(canvas, contours, -1, colour, style.line, cv2.LINE_AA)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, style.line)


def _tints(colour: Colour) -> NDArray[np.uint8]:
    """(1, 256, 3) what each value of each channel becomes under this colour."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    tint = np.full_like(values, colour)
    tints = cv2.addWeighted(values, 1 - _MASK_OPACITY, tint, _MASK_OPACITY, 0)
    return tints.astype(np.uint8, copy=False)


def _draw_label(
    canvas: NDArray[np.uint8],
    text: str,
    box: NDArray[np.float32],
    colour: Colour,
    style: _Style,
) -> None:
    """Write the label on a plate above the box, or inside it where there is no room above."""
    height, width = canvas.shape[:2]
    scale = style.text_px / _FONT_PX
    (text_w, text_h), baseline = cv2.getTextSize(text, _FONT, scale, style.line)
    pad = max(2, style.text_px // 4)
    plate_w, plate_h = text_w + 2 * pad, text_h + baseline + pad
    x1, y1, _, _ = _corners(box)
    left = max(0, min(x1, width - plate_w))
    top = y1 - plate_h if y1 >= plate_h else max(0, min(y1, height - plate_h))
    cv2.rectangle(canvas, (left, top), (left + plate_w - 1, top + plate_h - 1), colour, cv2.FILLED)
    # Rec. 601 luma: dark letters on light plates.
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ink = (0, 0, 0) if light else (255, 255, 255)
    origin = (left + pad, top + pad // 2 + text_h)
    cv2.putText(canvas, text, origin, _FONT, scale, ink, style.line, cv2.LINE_AA)


def _corners(box: NDArray[np.float32]) -> list[int]:
    return [round(edge) for edge in box.tolist()]

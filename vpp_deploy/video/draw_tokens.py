"""Drawing which patches of a frame ran in which blocks."""

import cv2
import numpy as np
from numpy.typing import NDArray

from vpp_deploy.manifests import PATCH_SIZE
from vpp_deploy.results import TokenMap

_LEVELS = (
    ("dropped", (0, 0, 0)),
    ("blocks 1-2", (59, 82, 139)),
    ("to 5", (33, 145, 140)),
    ("to 8", (94, 201, 98)),
    ("to 11", (253, 231, 37)),
)
"""Name and RGB colour of each depth; even steps of a colour map that reads in grey, too."""

_TINT = 0.4
_DROPPED = 0.3  # of its brightness is what a dropped patch keeps
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PX = 22.0  # height of a capital letter at font scale 1


def draw_tokens(rgb: NDArray[np.uint8], tokens: TokenMap) -> NDArray[np.uint8]:
    """Tint each patch by how far it ran; dropped ones turn grey and dark. A legend gives shares.

    Args:
        rgb: (H, W, 3) uint8, left as it is.
        tokens: of this frame.

    Returns:
        (H, W, 3) uint8, a new image.
    """
    height, width = rgb.shape[:2]
    depth_HW = tokens.depth[
        np.ix_(
            _patches(height, tokens.resized[0], tokens.depth.shape[0]),
            _patches(width, tokens.resized[1], tokens.depth.shape[1]),
        )
    ]
    colours = np.array([colour for _, colour in _LEVELS], np.uint8)
    tinted = cv2.addWeighted(rgb, 1 - _TINT, colours[depth_HW], _TINT, 0)
    grey = cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=_DROPPED)
    canvas = np.where((depth_HW == 0)[..., None], grey[..., None], tinted).astype(np.uint8)
    _draw_legend(canvas, depth_HW)
    return canvas


def _patches(length: int, resized: int, count: int) -> NDArray[np.intp]:
    """(length,) the patch that each row or column of the frame lies in."""
    centres = (np.arange(length) + 0.5) * resized / length
    patches: NDArray[np.intp] = np.minimum(centres // PATCH_SIZE, count - 1).astype(np.intp)
    return patches


def _draw_legend(canvas: NDArray[np.uint8], depth_HW: NDArray[np.uint8]) -> None:
    """Each colour with its meaning and the share of the picture that ended there."""
    text_px = max(9, round(min(canvas.shape[:2]) / 45))
    scale, pad = text_px / _FONT_PX, max(2, text_px // 2)
    shares = np.bincount(depth_HW.ravel(), minlength=len(_LEVELS)) / depth_HW.size
    lines = [f"{name}  {share:.0%}" for (name, _), share in zip(_LEVELS, shares, strict=True)]
    widest = max(cv2.getTextSize(line, _FONT, scale, 1)[0][0] for line in lines)
    row = 2 * text_px
    corner = (widest + row + 3 * pad, len(lines) * row + pad)
    if corner[0] > canvas.shape[1] // 2 or corner[1] > canvas.shape[0] // 2:
        return  # it would hide more than it explains
    cv2.rectangle(canvas, (0, 0), corner, (255, 255, 255), cv2.FILLED)
    for i, (line, (_, colour)) in enumerate(zip(lines, _LEVELS, strict=True)):
        top = pad + i * row
        square = (pad, top), (pad + row - pad, top + row - pad)
        cv2.rectangle(canvas, *square, colour, cv2.FILLED)
        origin = (row + 2 * pad, top + text_px + (row - pad - text_px) // 2)
        cv2.putText(canvas, line, origin, _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)

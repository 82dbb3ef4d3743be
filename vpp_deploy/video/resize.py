"""From a frame's size to the network's input: the resize of MODEL.md 1, steps 2 and 4.

Normalisation and the zeros of the padding belong to the network, so what leaves this module is
uint8 and one byte a value is all that travels to the device.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDE = 32
LONG_SIDE = 960


@dataclass(frozen=True)
class ResizePlan:
    """How frames of one size become network input.

    All sizes are (height, width) in pixels.

    Attributes:
        frame_size: (Ho, Wo), the frame as decoded.
        resized: (h, w), the frame after the resize; it lies in the top left corner of the input.
        padded: (H, W), the network's input.
        published: True if the published rule gives this plan for a long side of max(H, W). False
            means a letterbox: more padding than the weights have seen in training.
    """

    frame_size: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    published: bool


def plan_published(frame_h: int, frame_w: int, long_side: int = LONG_SIDE) -> ResizePlan:
    """Plan the published resize: long side to `long_side`, padded to multiples of 32.

    Smaller frames are enlarged (MODEL.md 1).
    """
    resized = _scaled(frame_h, frame_w, long_side / max(frame_h, frame_w))
    padded = (_round_up(resized[0]), _round_up(resized[1]))
    return ResizePlan((frame_h, frame_w), resized, padded, published=True)


def plan_for_input(frame_h: int, frame_w: int, input_size: tuple[int, int]) -> ResizePlan:
    """Plan the resize into an input whose size is already fixed, such as an engine's.

    The published rule is taken where it leads to `input_size` (H, W). Other frames are fitted into
    it whole, keeping their aspect ratio; `published` is then False and the caller should warn.
    """
    published = plan_published(frame_h, frame_w, long_side=max(input_size))
    if published.padded == input_size:
        return published
    height, width = input_size
    fit_h, fit_w = _scaled(frame_h, frame_w, min(height / frame_h, width / frame_w))
    resized = (min(fit_h, height), min(fit_w, width))
    return ResizePlan((frame_h, frame_w), resized, input_size, published=False)


def resize_frame(
    frame_rgb: NDArray[np.uint8], plan: ResizePlan, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Resize one frame into the top left corner of a zeroed input (MODEL.md 1).

    INTER_LINEAR on uint8 is bit-identical in opencv-python-headless 4.9 to 5.0 on x86-64, whatever
    the channel order, thread count or instruction set. INTER_LINEAR_EXACT is another algorithm.

    Args:
        frame_rgb: (Ho, Wo, 3) uint8.
        plan: a plan for frames of this size.
        out: (H, W, 3) uint8 to write into, for callers that keep one buffer; a new one if None.

    Returns:
        (H, W, 3) uint8: `out`. Its padding is 0, for repeatable bytes; the network sets the padding
        to 0 after normalising, whatever it holds here.

    Raises:
        ValueError: the frame or `out` does not fit the plan.
    """
    if frame_rgb.shape != (*plan.frame_size, 3):
        raise ValueError(f"frame has shape {frame_rgb.shape}, the plan is for {plan.frame_size}")
    if out is None:
        out = np.empty((*plan.padded, 3), np.uint8)
    elif out.shape != (*plan.padded, 3) or out.dtype != np.uint8:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected uint8 {(*plan.padded, 3)}")
    height, width = plan.resized
    out[height:] = 0
    out[:height, width:] = 0
    out[:height, :width] = cv2.resize(frame_rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    return out


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Scale and round half up; at least one pixel, so that a sliver of a frame stays a frame."""
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _round_up(size: int) -> int:
    return -(-size // STRIDE) * STRIDE

"""Run-length encodings of a dataset's file, checked before anything else reads them.

pycocotools trusts them: where the runs are too few for the mask, the rest of it is whatever was in
memory; where runs of no length make them too many, it writes past the end of its own.
"""

from pycocotools import mask as coco_mask
from typing_extensions import TypedDict

from vpp_deploy.video.frames_jsonl import Rle

_OFFSET, _MORE, _SIGN = 48, 32, 16  # of COCO's text: 5 bits a character, least significant first
_MAX_BITS = 40


class GivenRle(TypedDict):
    """A mask as files have it: counts are text, or the plain lengths of the runs."""

    size: tuple[int, int]
    counts: str | list[int]


def checked_rle(rle: GivenRle, size: tuple[int, int]) -> Rle:
    """The mask in the compressed form.

    Args:
        rle: as it was read.
        size: (H, W) that it must have.

    Raises:
        ValueError: it is of another size, or its runs do not fill it.
    """
    height, width = size
    if rle["size"] != size:
        raise ValueError(f"its mask is {rle['size'][1]}x{rle['size'][0]}, not {width}x{height}")
    counts = rle["counts"]
    runs = _runs(counts) if isinstance(counts, str) else counts
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"the runs of its mask do not add up to {width}x{height} pixels")
    if 0 in runs[1:]:
        runs = _joined(runs)
    elif isinstance(counts, str):
        return Rle(size=size, counts=counts)
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return Rle(size=size, counts=packed["counts"].decode("ascii"))


def shows(mask: Rle | None) -> bool:
    """Whether it covers any pixel."""
    return mask is not None and coco_mask.area(mask) > 0


def _joined(runs: list[int]) -> list[int]:
    """The same mask with no run of no length but the first, if the mask begins with its object."""
    joined = [0]
    for number, length in enumerate(runs):
        if (len(joined) - 1) % 2 == number % 2:
            joined[-1] += length
        elif length:
            joined.append(length)
    return joined


def _runs(text: str) -> list[int]:
    """Lengths of the runs that COCO's text holds: from the fourth on, the change from two before.

    Raises:
        ValueError: it is no such text.
    """
    runs: list[int] = []
    value = bits = 0
    for character in text:
        piece = ord(character) - _OFFSET
        if not 0 <= piece < 2 * _MORE or bits >= _MAX_BITS:
            raise ValueError("the runs of its mask are not in COCO's encoding")
        value |= (piece % _MORE) << bits
        bits += 5
        if piece < _MORE:
            value -= (1 << bits) if piece & _SIGN else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits:
        raise ValueError("the runs of its mask are cut off")
    return runs

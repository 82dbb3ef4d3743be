"""Recorded runs of the reference implementation, trimmed to fit the repository.

`tests/data/README.md` says what is kept; `tests/data/trim_parity.py` makes the copy.

    recording = load_recording("fix_a_tiny_128x160")
    recording["f1/track_ids"]                              # whole, as in the original
    compare(sample(memory0), recording["f0/memory0_sample"])  # large features: a fixed sample
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PARITY_DIR = Path(__file__).parent / "data" / "parity"

VPP_TINY = "fix_a_tiny_128x160"
DENSE_TINY = "fix_c_densetiny_128x160"
RECORDINGS = (VPP_TINY, DENSE_TINY)

# A prime that divides no dimension of any recorded array, so the sample walks through every
# channel, row and column.
SAMPLE_STRIDE = 31
SAMPLE_SUFFIX = "_sample"

Recording = dict[str, NDArray[Any]]


def sample(array: NDArray[Any]) -> NDArray[Any]:
    """Every 31st element in C order, from the first: what `NAME_sample` holds of `NAME`.

    Args:
        array: a whole array, of the original's shape (drop the batch dimension first).

    Returns:
        (ceil(size / 31),) the sampled elements.
    """
    return array.reshape(-1)[::SAMPLE_STRIDE]


def load_recording(name: str) -> Recording:
    """Reads one trimmed recording.

    Args:
        name: one of `RECORDINGS`.

    Returns:
        Arrays under the original's keys (`f0/track_ids`, ...) and the documented `_sample` and
        `_rows` keys, loaded into memory.
    """
    return _load(PARITY_DIR / f"{name}.npz")


def load_attention_masks(name: str) -> Recording:
    """Reads the masks that the decoder layers received.

    Args:
        name: one of `RECORDINGS`.

    Returns:
        `f{t}/attn_mask{i}`: (Q, cells) bool, already unpacked; `f{t}/attn_margin`: (9,).
    """
    packed = _load(PARITY_DIR / f"{name}_attention_masks.npz")
    masks = {key: value for key, value in packed.items() if not key.endswith("_shape")}
    for key, value in masks.items():
        if f"{key}_shape" in packed:
            masks[key] = unpack_masks(value, packed[f"{key}_shape"])
    return masks


def load_log(name: str) -> list[dict[str, Any]]:
    """Reads the JSON beside a recording: per frame the NMS calls and the decisions' margins."""
    log: list[dict[str, Any]] = json.loads((PARITY_DIR / f"{name}.json").read_text())
    return log


def unpack_masks(packed: NDArray[np.uint8], shape: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Undoes np.packbits along the last axis, given the true shape."""
    return np.unpackbits(packed, axis=-1, count=int(shape[-1])).astype(bool)


def mask_logits_of(
    recording: Recording, frame: int, query_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Recorded mask logits of queries that can be detected.

    Args:
        recording: from `load_recording`.
        frame: number of the frame.
        query_ids: (n,) in any order, all among `f{frame}/mask_logits_rows`.

    Returns:
        (n, H/4, W/4) logits.
    """
    rows = recording[f"f{frame}/mask_logits_rows"]
    index = np.searchsorted(rows, query_ids)
    assert np.array_equal(rows[index], query_ids), "the trimmed copy lacks one of these queries"
    return recording[f"f{frame}/mask_logits_of_rows"][index]


def num_frames(recording: Recording) -> int:
    """Number of recorded frames."""
    return len(recording["frames_rgb"])


def _load(path: Path) -> Recording:
    with np.load(path) as archive:
        return {key: archive[key] for key in archive.files}

"""Makes tests/data/parity/ from the full recordings of the reference implementation.

    python -m tests.data.trim_parity ../shared/parity

Kept whole: decisions, state, queries, class logits of the last layer, tracker, attention masks.
Kept as a sample (`NAME_sample`): the large features. Of the mask logits, the rows that can become
detections. `tests/data/README.md` describes the layout.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.parity_data import PARITY_DIR, RECORDINGS, SAMPLE_SUFFIX, sample

SAMPLED = (
    "input",
    "feat1",
    "feat2",
    "feat3",
    "feat4",
    "x_before_blocks",
    "x_last",
    "mask_features",
    "memory0",
    "memory1",
    "memory2",
    "cls_all_layers",
    "mask_logits",
)

# MODEL.md 4: a pair scores at most its class score, so only these queries can be detected.
STATIC_THRESHOLD = 0.3
TRACK_THRESHOLD = 0.25


def detectable_rows(class_logits: NDArray[np.float32], num_tracks: int) -> NDArray[np.intp]:
    """Rows whose best class score exceeds their threshold, with a little slack.

    Args:
        class_logits: (Q, 41) of the last layer.
        num_tracks: how many of the last rows are track queries.

    Returns:
        (n,) ascending row numbers.
    """
    exp = np.exp(class_logits - class_logits.max(axis=1, keepdims=True))
    best = (exp / exp.sum(axis=1, keepdims=True))[:, :-1].max(axis=1)
    thresholds = np.full(len(best), STATIC_THRESHOLD)
    thresholds[len(best) - num_tracks :] = TRACK_THRESHOLD
    return np.flatnonzero(best > thresholds - 1e-3)


def trim(full: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The trimmed copy of one recording (layout: tests/data/README.md)."""
    trimmed: dict[str, NDArray[Any]] = {}
    for key, value in full.items():
        frame, _, name = key.rpartition("/")
        if name == "cls_all_layers":
            trimmed[f"{frame}/cls_last_layer"] = value[-1]
        elif name == "mask_logits":
            rows = detectable_rows(
                full[f"{frame}/cls_all_layers"][-1], len(full[f"{frame}/track_query_ids_in"])
            )
            trimmed[f"{frame}/mask_logits_rows"] = rows
            trimmed[f"{frame}/mask_logits_of_rows"] = value[rows]
        if name in SAMPLED:
            trimmed[key + SAMPLE_SUFFIX] = sample(value)
        else:
            trimmed[key] = value
    return trimmed


def main() -> None:
    """Reads the recordings' folder, writes the trimmed copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of the full recordings")
    source: Path = parser.parse_args().source
    PARITY_DIR.mkdir(exist_ok=True)
    for name in RECORDINGS:
        with np.load(source / f"{name}.npz") as archive:
            full = {key: archive[key] for key in archive.files}
        target = PARITY_DIR / f"{name}.npz"
        np.savez_compressed(target, allow_pickle=False, **trim(full))
        for suffix in (".json", "_attention_masks.npz"):
            shutil.copyfile(source / f"{name}{suffix}", PARITY_DIR / f"{name}{suffix}")
        print(f"{target}: {target.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()

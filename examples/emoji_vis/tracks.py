"""Which queries go on into the next frame of a clip, and which object each follows.

Shapes: B clips, T track slots, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DROPPED = 0.1
"""Share of the tracks that are lost on purpose, so that objects are found again."""

_FALSE = 0.15
"""Share of the frames after which a track that follows nothing is added, to be seen through."""


@dataclass(frozen=True)
class TrackQueries:
    """The tracks of all clips.

    Attributes:
        queries_BTD: empty slots are zero.
        valid_BT: bool.
        objects: of each clip, the object that each slot follows; -1 for none.
    """

    queries_BTD: Tensor
    valid_BT: Tensor
    objects: tuple[tuple[int, ...], ...]


def no_tracks(batch: int, width: int, device: torch.device) -> TrackQueries:
    """What the first frame has."""
    return TrackQueries(
        torch.zeros(batch, 0, width, device=device),
        torch.zeros(batch, 0, dtype=torch.bool, device=device),
        ((),) * batch,
    )


def next_tracks(
    tracks: TrackQueries,
    queries_BQD: Tensor,
    found: Sequence[dict[int, int]],
    rng: np.random.Generator | None,
) -> TrackQueries:
    """The tracks after one frame.

    Args:
        tracks: those before it.
        queries_BQD: the head's, static ones first.
        found: of each clip, object to the query that found it.
        rng: for mishaps; None for none.
    """
    num_static = queries_BQD.shape[1] - tracks.valid_BT.shape[1]
    rows: list[list[Tensor]] = []
    objects: list[list[int]] = []
    for b, query_of in enumerate(found):
        # What is hidden for now is carried on as it was.
        kept = {
            followed: tracks.queries_BTD[b, slot]
            for slot, followed in enumerate(tracks.objects[b])
            if followed >= 0
        }
        kept |= {followed: queries_BQD[b, query] for followed, query in query_of.items()}
        if rng is not None:
            kept = {f: query for f, query in kept.items() if rng.random() >= _DROPPED}
            unused = sorted(set(range(num_static)) - set(query_of.values()))
            if unused and rng.random() < _FALSE:
                kept[-1] = queries_BQD[b, unused[rng.integers(len(unused))]]
        rows.append(list(kept.values()))
        objects.append(list(kept))
    slots = max(map(len, rows))
    empty_D = queries_BQD.new_zeros(queries_BQD.shape[2])
    padded = [[*row, *[empty_D] * (slots - len(row))] for row in rows]
    queries_BTD = torch.stack([query for row in padded for query in row] or [empty_D])
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=empty_D.device)
    return TrackQueries(
        queries_BTD[: len(rows) * slots].reshape(len(rows), slots, len(empty_D)),
        torch.arange(slots, device=empty_D.device) < lengths_B1,
        tuple(map(tuple, objects)),
    )

"""Taking, writing back and ranking tokens.

Shapes: B batch, N tokens, K tokens chosen, C width. Positions are int64 and ascending.
"""

import torch
from torch import Tensor


def _flat(positions_BK: Tensor, length: int) -> Tensor:
    # One gather over rows of (B*N, C) copies whole rows; a gather along axis 1 would need an
    # index for every channel.
    start_B1 = torch.arange(positions_BK.shape[0], device=positions_BK.device)[:, None] * length
    return (positions_BK + start_B1).reshape(-1)


def take(x_BNC: Tensor, positions_BK: Tensor) -> Tensor:
    """Rows of each stream at its own positions: (B, K, C)."""
    batch, length, width = x_BNC.shape
    rows = x_BNC.reshape(batch * length, width).index_select(0, _flat(positions_BK, length))
    return rows.reshape(batch, positions_BK.shape[1], width)


def put(x_BNC: Tensor, positions_BK: Tensor, rows_BKC: Tensor) -> Tensor:
    """A copy of `x_BNC` with `rows_BKC` in place of the rows at `positions_BK`."""
    batch, length, width = x_BNC.shape
    flat = x_BNC.reshape(batch * length, width)
    rows = rows_BKC.reshape(-1, width)
    return flat.index_put((_flat(positions_BK, length),), rows).reshape(batch, length, width)


def best(scores_BN: Tensor, count: int) -> Tensor:
    """Positions (B, count) of the highest scores, ascending; of equal ones the lower position."""
    if torch.compiler.is_exporting():
        # ONNX's TopK breaks ties by the lower index; torch.topk promises nothing.
        chosen = torch.topk(scores_BN, count, dim=1).indices
    else:
        chosen = torch.sort(scores_BN, dim=1, descending=True, stable=True).indices[:, :count]
    return torch.sort(chosen, dim=1).values


def all_positions(batch: int, count: int, device: torch.device | None = None) -> Tensor:
    """(B, count): 0, 1, ... count - 1 for each stream."""
    return torch.arange(count, device=device)[None].expand(batch, count)

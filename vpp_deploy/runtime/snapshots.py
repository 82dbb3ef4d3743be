"""What a stream carries between two frames, as arrays by name: checked before it is put back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import ResumeError
from vpp_deploy.runtime.tensors import fits, host_dtype
from vpp_deploy.specs import PipelineSpec

Snapshot = Mapping[str, NDArray[Any]]
"""What a stream carries between two frames, as arrays by name."""

TENSOR = "tensor."
"""Before the name of a tensor of the runner."""


def checked(
    saved: Snapshot, name: str, dtype: type[np.generic] | np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """An array of a snapshot, all finite; a size of -1 is any.

    Raises:
        ResumeError: it is missing, of another type or shape, or has values that are not finite.
    """
    array = saved.get(name)
    if array is None:
        raise ResumeError(f"the saved state has no {name}")
    if array.dtype != dtype or not fits(array.shape, shape):
        raise ResumeError(
            f"the saved {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ResumeError(f"the saved {name} has values that are not finite")
    return array


def check_within(
    name: str, values: NDArray[np.integer[Any]], low: int, high: int | np.integer[Any]
) -> None:
    """Whole numbers of a snapshot lie in `low <= value < high`.

    Raises:
        ResumeError: one does not.
    """
    if ((values < low) | (values >= high)).any():
        raise ResumeError(f"the saved {name} has a value outside {low} to {int(high) - 1}")


def checked_tensors(saved: Snapshot, spec: PipelineSpec) -> dict[str, NDArray[Any]]:
    """The temporal state in a snapshot: tensor to one stream's row of it.

    Raises:
        ResumeError: it is of another pipeline, or has values that no frame leaves.
    """
    tensors = {}
    for edge in spec.state:
        name, tensor = TENSOR + edge.input, spec.tensor(edge.input)
        row = checked(saved, name, host_dtype(tensor.dtype), tensor.shape[1:])
        if tensor.dtype == "bfloat16" and (row & 0x7F80 == 0x7F80).any():
            raise ResumeError(f"the saved {name} has values that are not finite")
        if row.dtype == np.int64:
            assert spec.cold_start is not None
            check_within(name, row, 0, spec.cold_start.num_tokens)
        tensors[edge.input] = row
    counts = {len(row) for row in tensors.values()}
    if len(counts) > 1 or 0 in counts:
        raise ResumeError(f"the saved state has {sorted(counts)} tokens, expected one number")
    return tensors

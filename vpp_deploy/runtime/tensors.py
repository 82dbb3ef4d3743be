"""Sizes and numeric types of tensors, as NumPy and runners take them."""

from typing import Any

import numpy as np

Shape = tuple[int, ...]


def host_dtype(dtype: str) -> np.dtype[Any]:
    """How NumPy holds a tensor; bfloat16, which it does not know, as the bits of it."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def fits(shape: Shape, spec: Shape) -> bool:
    """Whether a tensor of this shape is what a specification describes, where -1 is any size."""
    return len(shape) == len(spec) and all(b in (a, -1) for a, b in zip(shape, spec, strict=True))

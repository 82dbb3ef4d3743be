"""Half precision, and the islands that stay in float32.

A model is lowered by casting its weights; what a module computes in follows from its weights' type,
so this list decides it. In float32 besides, whatever the list says: the frame until it is
normalised, the pixel decoder's reference points, and what leaves the head. No islands are layer
normalisations, which take their statistics in float32 whatever their input is, and softmax: its own
error is part of what the verification of every export measures.
"""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Island:
    """Parts that stay in float32.

    Attributes:
        name: for people to read.
        modules: names of modules, parameters or buffers, as parts of their dotted paths.
        reason: why half precision does not do; `benchmarks/islands.py` measures what it costs.
    """

    name: str
    modules: frozenset[str]
    reason: str


ISLANDS = (
    Island(
        "selection",
        frozenset({"selective_modules", "matching_module", "distance_prior_NN"}),
        "ranks tokens by differences of scores, and matches them by similarities in the hundreds",
    ),
    Island(
        "coordinates",
        frozenset({"patch_centres_N2", "pyramid_centres_M2"}),
        "a position of 100 cells in half precision is off by up to 1/32 of a cell",
    ),
    Island(
        "group norms",
        frozenset({"gn"}),
        "their statistics are sums over whole maps, and ONNX has them as InstanceNormalization",
    ),
    Island(
        "predictions",
        frozenset({"post_norm", "cls_embed", "mask_embed", "mask_embedding"}),
        "a mask is the sign of a logit, and what is masked is sigmoid < 0.5, which half precision "
        "rounds to 0.5 from -0.001 on",
    ),
)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What graphs of a precision are computed in, outside of the islands."""


def lower(module: nn.Module, dtype: torch.dtype, islands: tuple[Island, ...] = ISLANDS) -> None:
    """Casts the weights of `module`, in place, but for those of the islands."""
    kept = frozenset[str]().union(*(island.modules for island in islands))
    for path, part in module.named_modules():
        if kept.isdisjoint(path.split(".")):
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.is_floating_point() and name not in kept:
                    parameter.data = parameter.data.to(dtype)
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.is_floating_point() and name not in kept:
                    setattr(part, name, buffer.to(dtype))

"""The names of weights: published spellings, our canonical one, and the check against a model.

Canonical keys are the published ones without the leading `detector.`, with blocks spelled as the
dense checkpoints spell them (MODEL.md 6). All other keys stay as they are.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

from vpp_deploy.errors import CheckpointError

_PREFIX = "detector."
_BLOCK = re.compile(r"(backbone\.blocks\.\d+\.)(.+)")
_ENCODER_LAYER = "TransformerEncoderLayer."

# VPP spelling -> dense spelling, inside one block.
_BLOCK_NAMES = {
    "self_attn.in_proj_weight": "attn.qkv.weight",
    "self_attn.in_proj_bias": "attn.qkv.bias",
    "self_attn.out_proj.weight": "attn.proj.weight",
    "self_attn.out_proj.bias": "attn.proj.bias",
    "linear1.weight": "mlp.fc1.weight",
    "linear1.bias": "mlp.fc1.bias",
    "linear2.weight": "mlp.fc2.weight",
    "linear2.bias": "mlp.fc2.bias",
}
_VPP_NAMES = {dense: vpp for vpp, dense in _BLOCK_NAMES.items()}

_UNUSED = re.compile(
    r"\.matching_module\.(init_mlp|norm_input)\.(weight|bias)$|\.num_batches_tracked$"
)

_MAX_GROUPS = 6


class Shaped(Protocol):
    """Anything with a shape: a torch tensor, a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along each axis."""


def canonical_key(key: str) -> str:
    """The canonical spelling of a published key (MODEL.md 6); other keys are returned unchanged."""
    key = key.removeprefix(_PREFIX)
    match = _BLOCK.fullmatch(key)
    if match is None:
        return key
    block, name = match[1], match[2].removeprefix(_ENCODER_LAYER)
    return block + _BLOCK_NAMES.get(name, name)


def official_key(key: str, pruned: bool) -> str:
    """The published spelling of a canonical key, in a VPP or in a dense checkpoint."""
    match = _BLOCK.fullmatch(key) if pruned else None
    if match is not None:
        key = match[1] + _ENCODER_LAYER + _VPP_NAMES.get(match[2], match[2])
    return _PREFIX + key


def is_unused(key: str) -> bool:
    """Whether inference never uses this weight (MODEL.md 2.3, point 5; BatchNorm's counters)."""
    return _UNUSED.search(key) is not None


def check_keys(tensors: Mapping[str, Shaped], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare canonical keys and shapes with the model's, leaving out what inference never uses.

    Raises:
        CheckpointError: they differ; one line that groups the keys by module.
    """
    wanted = {key for key in expected if not is_unused(key)}
    found = {key for key in tensors if not is_unused(key)}
    misshapen = {key for key in wanted & found if tuple(tensors[key].shape) != expected[key]}
    problems = [
        text
        for kind, keys in (
            ("missing", wanted - found),
            ("unexpected", found - wanted),
            ("misshapen", misshapen),
        )
        if (text := _describe(kind, keys, tensors, expected))
    ]
    if problems:
        raise CheckpointError(
            f"the weights do not fit the model: {'; '.join(problems)}; "
            "expected a published VPP or dense checkpoint, and a recipe that fits it"
        )


def _describe(
    kind: str,
    keys: set[str],
    tensors: Mapping[str, Shaped],
    expected: Mapping[str, tuple[int, ...]],
) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        groups[_module(key)].append(key)
    parts = []
    for module, members in list(groups.items())[:_MAX_GROUPS]:
        example = members[0]
        detail = example.removeprefix(module).lstrip(".")
        if kind == "misshapen":
            detail += f" has {tuple(tensors[example].shape)}, expected {expected[example]}"
        parts.append(f"{module} {len(members)} (e.g. {detail})")
    if len(groups) > _MAX_GROUPS:
        parts.append(f"and {len(groups) - _MAX_GROUPS} more modules")
    return f"{len(keys)} {kind}: {', '.join(parts)}" if parts else ""


def _module(key: str) -> str:
    """The module that a user thinks in, such as backbone.interactions.0.injector."""
    parts = key.split(".")
    return ".".join(parts[: max(1, min(4, len(parts) - 1))])

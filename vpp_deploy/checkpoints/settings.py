"""From weights, config text and recipe to the one `ModelConfig` that they agree on.

The weights decide all sizes. What they do not say (head counts, keep ratio, class names) comes
from the checkpoint's own text or from the recipe; where both speak they must agree, unless the
recipe sets `model.override_checkpoint`.
"""

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeVar

from vpp_deploy.checkpoints.config_text import UNKNOWN, config_values, find_value
from vpp_deploy.checkpoints.reader import Checkpoint
from vpp_deploy.errors import CheckpointError, RecipeError
from vpp_deploy.manifests import PATCH_SIZE
from vpp_deploy.models.config import YOUTUBE_VIS_2021, ModelConfig
from vpp_deploy.recipe_files import ModelIdentity
from vpp_deploy.recipes import ModelSettings

T = TypeVar("T")

_BACKBONE, _HEAD = "backbone", "panoptic_head"
_BLOCK = f"{_BACKBONE}.blocks.0"
_INTERACTION = f"{_BACKBONE}.interactions.0"
_ENCODER = f"{_HEAD}.pixel_decoder.encoder.layers"
_DECODER = f"{_HEAD}.transformer_decoder.layers"

# Where the public config files say what the weights do not; the second spelling is mmdet 3's.
_HEADS_IN_TEXT = {
    "vit_heads": ("backbone.num_heads",),
    "adapter_heads": ("backbone.deform_num_heads",),
    "pixel_heads": (
        "panoptic_head.pixel_decoder.encoder.transformerlayers.attn_cfgs.num_heads",
        "panoptic_head.pixel_decoder.encoder.layer_cfg.self_attn_cfg.num_heads",
    ),
    "decoder_heads": (
        "panoptic_head.transformer_decoder.transformerlayers.attn_cfgs.num_heads",
        "panoptic_head.transformer_decoder.layer_cfg.self_attn_cfg.num_heads",
    ),
}
_KEEP_RATIO_IN_TEXT = "backbone.matching_module.keep_ratio"

_LEVELS = 3
"""Feature levels that injectors and pixel decoder sample from (MODEL.md 2.1, 3)."""


def identify(checkpoint: Checkpoint) -> ModelIdentity:
    """What the checkpoint says about itself, for `recipes.find_recipe`.

    Raises:
        CheckpointError: it holds no ViT-Adapter.
    """
    pruned = _is_pruned(checkpoint)
    width = _size(checkpoint, f"{_BACKBONE}.patch_embed.proj.weight", 0, 4)
    values = config_values(checkpoint.config_text)
    return ModelIdentity(pruned, width, _keep_ratio(values) if pruned else None)


def infer_config(checkpoint: Checkpoint, settings: ModelSettings) -> ModelConfig:
    """The model that the checkpoint's weights belong to.

    Raises:
        RecipeError: a setting is missing, contradicts the checkpoint's text, or does not fit the
            weights; the message names the recipe's key.
        CheckpointError: the weights are not those of a VPP or dense model.
    """
    values = config_values(checkpoint.config_text)
    pruned = _is_pruned(checkpoint)
    _check_layout(checkpoint, values)
    heads = {
        name: _choose(checkpoint, settings, name, _first_int(values, paths))
        for name, paths in _HEADS_IN_TEXT.items()
    }
    patch = f"{_BACKBONE}.patch_embed.proj.weight"
    width = _size(checkpoint, patch, 0, 4)
    patch_size = _size(checkpoint, patch, 3, 4)
    if patch_size != PATCH_SIZE:
        raise CheckpointError(
            f"{checkpoint.path}: its patches are {patch_size} pixels wide; only {PATCH_SIZE} is "
            "supported"
        )
    head_width = _size(checkpoint, f"{_HEAD}.query_feat.weight", 1, 2)
    for name, channels in (
        ("vit_heads", width),
        ("adapter_heads", width),
        ("pixel_heads", head_width),
        ("decoder_heads", head_width),
    ):
        if channels % heads[name]:
            _misfit(checkpoint, name, heads[name], f"a divisor of the {channels} channels")
    positions = _size(checkpoint, f"{_BACKBONE}.pos_embed", 1, 3) - 1
    return ModelConfig(
        width=width,
        vit_heads=heads["vit_heads"],
        classes=_classes(checkpoint, settings),
        pruned=pruned,
        keep_ratio=_chosen_keep_ratio(checkpoint, settings, values, pruned),
        reference_tokens=settings.reference_tokens or "after_block_2",
        selector_width=_size(checkpoint, f"{_BACKBONE}.selective_modules.0.mlp.fc1.weight", 0, 2)
        if pruned
        else None,
        map_selector_width=_size(
            checkpoint, f"{_INTERACTION}.matching_module.selector.fc1.weight", 0, 2
        )
        if pruned
        else None,
        num_blocks=_num_blocks(checkpoint),
        patch_size=patch_size,
        mlp_width=_size(checkpoint, f"{_BLOCK}.mlp.fc1.weight", 0, 2),
        pos_grid=math.isqrt(max(positions, 0)),
        stem_width=_size(checkpoint, f"{_BACKBONE}.spm.stem.0.weight", 0, 4),
        adapter_heads=heads["adapter_heads"],
        adapter_points=_points(
            checkpoint,
            f"{_INTERACTION}.injector.attn",
            "adapter_heads",
            heads["adapter_heads"],
            find_value(values, "backbone.n_points"),
        ),
        adapter_ffn_width=_size(checkpoint, f"{_INTERACTION}.extractor.ffn.fc1.weight", 0, 2),
        head_width=head_width,
        pixel_layers=len(_indices(checkpoint.tensors, _ENCODER)),
        pixel_heads=heads["pixel_heads"],
        pixel_points=_points(
            checkpoint,
            f"{_ENCODER}.0.attentions.0",
            "pixel_heads",
            heads["pixel_heads"],
            find_value(
                values, "panoptic_head.pixel_decoder.encoder.transformerlayers.attn_cfgs.num_points"
            ),
        ),
        pixel_ffn_width=_size(checkpoint, f"{_ENCODER}.0.ffns.0.layers.0.0.weight", 0, 2),
        decoder_layers=len(_indices(checkpoint.tensors, _DECODER)),
        decoder_heads=heads["decoder_heads"],
        decoder_ffn_width=_size(checkpoint, f"{_DECODER}.0.ffns.0.layers.0.0.weight", 0, 2),
        num_queries=_size(checkpoint, f"{_HEAD}.query_feat.weight", 0, 2),
    )


def _is_pruned(checkpoint: Checkpoint) -> bool:
    return any(key.startswith(f"{_BACKBONE}.selective_modules.") for key in checkpoint.tensors)


def _size(checkpoint: Checkpoint, key: str, axis: int, num_axes: int) -> int:
    tensor = checkpoint.tensors.get(key)
    if tensor is None or tensor.ndim != num_axes:
        got = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise CheckpointError(
            f"{checkpoint.path}: {key} {got}; expected a published VPP or dense checkpoint, where "
            f"it has {num_axes} axes"
        )
    if 0 in tensor.shape:
        raise CheckpointError(
            f"{checkpoint.path}: {key} has shape {tuple(tensor.shape)}; expected no empty axis"
        )
    return int(tensor.shape[axis])


def _indices(keys: Iterable[str], prefix: str) -> set[int]:
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.")
    return {int(match[1]) for key in keys if (match := pattern.match(key))}


def _num_blocks(checkpoint: Checkpoint) -> int:
    count = len(_indices(checkpoint.tensors, f"{_BACKBONE}.blocks"))
    if count == 0 or count % 4:
        raise CheckpointError(
            f"{checkpoint.path}: it has {count} blocks; expected a multiple of 4, a quarter for "
            "each interaction"
        )
    return count


def _first_int(values: Mapping[str, object], paths: Iterable[str]) -> int | None:
    for path in paths:
        value = find_value(values, path)
        if type(value) is int and value > 0:
            return value
    return None


def _keep_ratio(values: Mapping[str, object]) -> float | None:
    value = find_value(values, _KEEP_RATIO_IN_TEXT)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    return None


def _choose(checkpoint: Checkpoint, settings: ModelSettings, name: str, own: T | None) -> T:
    """The recipe's or the checkpoint's own value of one setting; they must not contradict."""
    wanted: T | None = getattr(settings, name)
    if (
        wanted is not None
        and own is not None
        and wanted != own
        and not settings.override_checkpoint
    ):
        raise RecipeError(
            f"{checkpoint.path}: its config says {name} = {own}, but the recipe says "
            f"model.{name} = {wanted}; correct the recipe, or let it win with "
            "model.override_checkpoint = true"
        )
    chosen = own if wanted is None else wanted
    if chosen is None:
        raise RecipeError(
            f"{checkpoint.path}: neither its weights nor its config text say {name}; "
            f"set model.{name} in the recipe"
        )
    return chosen


def _chosen_keep_ratio(
    checkpoint: Checkpoint, settings: ModelSettings, values: Mapping[str, object], pruned: bool
) -> float | None:
    if pruned:
        return _choose(checkpoint, settings, "keep_ratio", _keep_ratio(values))
    if settings.keep_ratio is not None:
        raise RecipeError(
            f"{checkpoint.path}: it is dense (it has no selective modules), but the recipe says "
            f"model.keep_ratio = {settings.keep_ratio}; use a dense recipe"
        )
    return None


def _classes(checkpoint: Checkpoint, settings: ModelSettings) -> tuple[str, ...]:
    if settings.classes is None or isinstance(settings.classes, tuple):
        wanted = settings.classes
    else:
        wanted = YOUTUBE_VIS_2021
    own = checkpoint.classes
    if (
        wanted is not None
        and own is not None
        and wanted != own
        and not settings.override_checkpoint
    ):
        raise RecipeError(
            f"{checkpoint.path}: its own {len(own)} class names differ from the {len(wanted)} of "
            "the recipe's model.classes; correct the recipe, or let it win with "
            "model.override_checkpoint = true"
        )
    names = own if wanted is None else wanted
    count = _size(checkpoint, f"{_HEAD}.cls_embed.weight", 0, 2) - 1
    if names is None:
        raise RecipeError(
            f"{checkpoint.path}: it does not name its {count} classes; set model.classes in the "
            'recipe, to a list of names or to "youtube-vis-2021"'
        )
    if len(names) != count:
        raise RecipeError(
            f"{checkpoint.path}: its weights have {count} classes (and the background), but there "
            f"are {len(names)} names; set model.classes in the recipe to {count} names"
        )
    return names


def _points(checkpoint: Checkpoint, module: str, name: str, heads: int, in_text: object) -> int:
    """Sampling points of a deformable attention: its offsets are (heads, levels, points, 2)."""
    key = f"{module}.sampling_offsets.weight"
    rows = _size(checkpoint, key, 0, 2)
    points, rest = divmod(rows, heads * _LEVELS * 2)
    if rest or not points:
        _misfit(checkpoint, name, heads, f"a count that divides the {rows} rows of {key}")
    if in_text is not UNKNOWN and in_text != points:
        expected = f"{rows // (_LEVELS * 2)} / {in_text}, by the points in its config text"
        _misfit(checkpoint, name, heads, expected)
    return points


def _misfit(checkpoint: Checkpoint, name: str, got: int, expected: str) -> NoReturn:
    raise RecipeError(
        f"{checkpoint.path}: model.{name} = {got} does not fit its weights; expected {expected}; "
        f"set model.{name} in the recipe"
    )


def _check_layout(checkpoint: Checkpoint, values: Mapping[str, object]) -> None:
    """Refuse an arrangement of blocks that the weights cannot show and that we do not build."""
    blocks = _num_blocks(checkpoint)
    quarter = blocks // 4
    starts = range(0, blocks, quarter)
    for path, expected in (
        ("backbone.interaction_indexes", [[start, start + quarter - 1] for start in starts]),
        ("backbone.select_module_ids", list(starts[1:])),
        ("backbone.matching_module_idx", 1),
        ("backbone.prev_x_update_layer", 2 * quarter - 1),
    ):
        got = find_value(values, path)
        if got is not UNKNOWN and got != expected:
            raise CheckpointError(
                f"{checkpoint.path}: its config text says {path} = {reprlib.repr(got)}; only "
                f"{expected} is supported"
            )

"""Weights by formula: a checkpoint of the published shapes that anyone can make again.

Every tensor is a function of its published key and its shape, the same bit for bit as that of the
recorded runs of the reference implementation. Such a model detects nothing of interest, but it
exercises everything: tests, demos and latency need no download.

    python -m vpp_deploy.checkpoints.formula tiny OUT.safetensors
"""

import argparse
import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.checkpoints.keys import official_key
from vpp_deploy.models.config import YOUTUBE_VIS_2021, ModelConfig

Array = NDArray[np.float64]
Size = Literal["tiny", "small", "dense-tiny", "dense-small"]
Rule = Callable[[Array, int], Array]
"""From standard normal draws of the tensor's shape, and its fan-in, to its values."""


def _normal(gain: float) -> Rule:
    return lambda n, fan_in: gain * n


def _scaled(gain: float) -> Rule:
    return lambda n, fan_in: gain * n / np.sqrt(fan_in)


def _centred(gain: float) -> Rule:
    """Rows without mean, so that a ReLU before them does not shift every output alike."""
    return lambda n, fan_in: gain * (n - n.mean(axis=1, keepdims=True)) / np.sqrt(fan_in)


def _constant(*values: float) -> Rule:
    return lambda n, fan_in: np.array(values)


def _ring(heads: int, levels: int, points: int) -> Rule:
    """Deformable attention's usual start: heads look in a ring of directions, points further out.

    Laid out (heads, levels, points, xy), flat.
    """
    angle = np.arange(heads) * (2.0 * np.pi / heads)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction = direction / np.abs(direction).max(-1, keepdims=True)
    offsets = np.tile(direction.reshape(heads, 1, 1, 2), (1, levels, points, 1))
    offsets *= np.arange(1, points + 1).reshape(1, 1, points, 1)
    return lambda n, fan_in: offsets.reshape(-1)


def _class_bias(n: Array, fan_in: int) -> Array:
    """A background class (the last) that wins nearly always, as in a trained model."""
    bias = 0.1 * n
    bias[-1] = 13.0
    return bias


_DECODER = r"transformer_decoder\.layers\.\d+\."

# Pattern of the published key, least number of axes, rule. The first that fits wins. The selectors'
# and the class biases make each module keep a part of the tokens and few queries.
_RULES: tuple[tuple[str, int, Rule], ...] = (
    (r"running_var$", 0, lambda n, fan_in: 1 + 0.1 * np.abs(n)),
    (r"running_mean$", 0, _normal(0.1)),
    (r"sampling_offsets\.weight$", 0, _normal(0.01)),
    (r"\.pixel_decoder\..*sampling_offsets\.bias$", 0, _ring(8, 3, 4)),
    (r"\.injector\..*sampling_offsets\.bias$", 0, _ring(6, 3, 4)),
    (r"sampling_offsets\.bias$", 0, _ring(6, 1, 4)),
    (r"injector\.gamma$", 0, _normal(0.1)),
    (r"backbone\.pos_embed$", 0, _normal(0.5)),
    (r"backbone\.level_embed$", 0, _normal(0.3)),
    (r"mask_feature\.weight$", 0, _centred(1.0)),
    (r"(level_embed|level_encoding|query_feat|query_embed)\.weight$", 0, _normal(1.0)),
    (r"selective_modules\.\d+\.mlp\.fc2\.weight$", 0, _scaled(2.0)),
    (r"selective_modules\.0\.mlp\.fc2\.bias$", 0, _constant(0.1, -0.1)),
    (r"selective_modules\.1\.mlp\.fc2\.bias$", 0, _constant(0.5, -0.5)),
    (r"selective_modules\.2\.mlp\.fc2\.bias$", 0, _constant(0.2, -0.2)),
    (r"matching_module\.selector\.fc2\.weight$", 0, _scaled(4.0)),
    (r"matching_module\.selector\.fc2\.bias$", 0, _constant(-3.2, 3.2)),
    (r"cls_embed\.weight$", 0, _scaled(4.0)),
    (r"cls_embed\.bias$", 0, _class_bias),
    (r"mask_embed\.2\.weight$", 0, _centred(float(np.sqrt(2.0)))),
    (r"mask_embed\.4\.weight$", 0, _centred(0.5)),
    (_DECODER + r"attentions\.\d+\.attn\.in_proj_weight$", 0, _scaled(2.0)),
    (_DECODER + r"(attentions\.\d+\.attn\.out_proj|ffns\.0\.layers\.1)\.weight$", 0, _scaled(0.1)),
    (r"\.spm\.", 4, _scaled(float(np.sqrt(2.0)))),
    (r"up\.weight$", 0, lambda n, fan_in: n / np.sqrt(n.shape[0])),
    (r"", 2, _scaled(1.0)),
    (r"\.transformer_decoder\..*bias$", 0, _normal(0.02)),
    (r"\.weight$", 0, lambda n, fan_in: 1 + 0.1 * n),
    (r"", 0, _normal(0.1)),
)


def formula_tensor(key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The weights of one published key, float32 (int64 for BatchNorm's counters).

    Args:
        key: the full published key; its CRC-32 seeds the draw, so `detector.` matters.
        shape: the tensor's shape.
    """
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    for pattern, least_axes, rule in _RULES:
        if len(shape) >= least_axes and re.search(pattern, key):
            return rule(n, fan_in).astype(np.float32)
    raise AssertionError("the last rule fits every key")


def formula_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """`formula_tensor` for each published key and its shape."""
    return {key: formula_tensor(key, shape) for key, shape in shapes.items()}


def formula_config(size: Size) -> ModelConfig:
    """The published sizes (MODEL.md, first table), with the keep ratio of the recorded runs."""
    pruned = not size.startswith("dense")
    width = 192 if size.endswith("tiny") else 384
    return ModelConfig(
        width=width,
        vit_heads=width // 64,
        pruned=pruned,
        keep_ratio=0.6 if pruned else None,
        selector_width=width // 4 if pruned else None,
        map_selector_width=width // 2 if pruned else None,
        mlp_width=width * 4,
        adapter_ffn_width=width // 4,
    )


def published_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Published keys and shapes of such a model, with the weights that inference never uses."""
    # The names come from the one definition of the model; nothing else here needs torch.
    import torch

    from vpp_deploy.models.vpp import VppModel

    with torch.device("meta"):
        state = VppModel(config).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for key in [key for key in shapes if key.endswith(".running_mean")]:
        shapes[key.replace("running_mean", "num_batches_tracked")] = ()
    if config.map_selector_width is not None:
        module = "backbone.interactions.0.matching_module"
        shapes[f"{module}.init_mlp.weight"] = (config.map_selector_width, config.width)
        shapes[f"{module}.norm_input.weight"] = (config.width,)
        shapes[f"{module}.norm_input.bias"] = (config.width,)
    return {official_key(key, config.pruned): shape for key, shape in shapes.items()}


def config_text(config: ModelConfig) -> str:
    """What a published config text says about such a model, in its words."""
    matching = f"matching_module=dict(keep_ratio={config.keep_ratio}), " if config.pruned else ""
    attention = "transformerlayers=dict(attn_cfgs=dict(num_heads={}))"
    encoder = attention.format(config.pixel_heads)
    decoder = attention.format(config.decoder_heads)
    return (
        "model = dict(detector=dict("
        f"backbone=dict({matching}num_heads={config.vit_heads}, "
        f"deform_num_heads={config.adapter_heads}, n_points={config.adapter_points}), "
        f"panoptic_head=dict(pixel_decoder=dict(encoder=dict({encoder})), "
        f"transformer_decoder=dict({decoder}))))\n"
    )


def write_formula_checkpoint(path: str | Path, size: Size) -> None:
    """Write the weights of one published size as safetensors, under their published keys."""
    from safetensors.numpy import save_file

    config = formula_config(size)
    metadata = {"config": config_text(config), "classes": json.dumps(list(YOUTUBE_VIS_2021))}
    save_file(formula_tensors(published_shapes(config)), str(path), metadata=metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m vpp_deploy.checkpoints.formula")
    parser.add_argument("size", choices=get_args(Size))
    parser.add_argument("path", type=Path, help="the .safetensors file to write")
    arguments = parser.parse_args()
    write_formula_checkpoint(arguments.path, arguments.size)

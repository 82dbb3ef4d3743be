"""The model's size, its first weights, and its products as ordinary checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.emoji_vis.artwork import CLASSES
from vpp_deploy.checkpoints.formula import config_text
from vpp_deploy.checkpoints.keys import is_unused, official_key
from vpp_deploy.errors import CheckpointError
from vpp_deploy.files import written_aside
from vpp_deploy.models.config import ModelConfig
from vpp_deploy.models.decoder import MultiHeadAttention
from vpp_deploy.models.deformable import MultiScaleDeformableAttention
from vpp_deploy.models.vpp import VppModel

FRAME_SIZE = (180, 320)
INPUT_SIZE = (192, 320)
"""(H, W): the frame lies in the top left corner, below it is padding."""

CONFIG = ModelConfig(
    width=128,
    vit_heads=4,
    mlp_width=512,
    adapter_ffn_width=32,
    classes=CLASSES,
    keep_ratio=0.9,  # what serves best after training (README.md)
    reference_tokens="entry_of_block_1",  # in training, as in the published one (MODEL.md 2.3)
    selector_width=32,
    map_selector_width=64,
    stem_width=32,
    adapter_heads=8,
    head_width=128,
    pixel_layers=2,
    pixel_ffn_width=512,
    decoder_layers=3,
    decoder_ffn_width=512,
    num_queries=20,
)

_SELECTORS = ("selective_modules.", "matching_module.")


def new_model(seed: int) -> VppModel:
    """A pruned model whose selectors have learned nothing yet, in training mode."""
    torch.manual_seed(seed)
    model = VppModel(CONFIG)
    for module in model.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            _start_deformable(module)
        elif isinstance(module, MultiHeadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    backbone = model.backbone
    for embedding in (backbone.pos_embed, backbone.level_embed):
        nn.init.trunc_normal_(embedding, std=0.02)
    for name, parameter in model.named_parameters():
        if name.endswith("injector.gamma"):
            # Published training starts at 0, from a ViT that can already see; this one cannot.
            nn.init.constant_(parameter, 0.2)
    return model.train()


def is_selector(key: str) -> bool:
    """Whether the weight belongs to Map-SM or a selective module."""
    return any(part in key for part in _SELECTORS)


def save_weights(path: Path, state: Mapping[str, Tensor], pruned: bool) -> None:
    """Writes canonical weights as safetensors in half precision, under their published keys.

    Args:
        path: the file.
        state: canonical key to weights.
        pruned: False writes the dense baseline, without the selectors.

    Raises:
        CheckpointError: it cannot be written.
    """
    config = CONFIG
    if not pruned:
        config = replace(
            CONFIG, pruned=False, keep_ratio=None, selector_width=None, map_selector_width=None
        )
    tensors = {
        official_key(key, pruned): tensor.detach().to(torch.float16).contiguous()
        for key, tensor in state.items()
        if not is_unused(key) and (pruned or not is_selector(key))
    }
    metadata = {"config": config_text(config), "classes": json.dumps(list(CLASSES))}
    try:
        with written_aside(path) as aside:
            save_file(tensors, aside, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}); make space, and go on with --resume"
        ) from error


def _start_deformable(module: MultiScaleDeformableAttention) -> None:
    """Heads look in a ring of directions, points further out, all alike (Deformable DETR)."""
    angle = torch.arange(module.heads) * (2 * torch.pi / module.heads)
    direction_M2 = torch.stack((angle.cos(), angle.sin()), dim=1)
    direction_M2 = direction_M2 / direction_M2.abs().amax(1, keepdim=True)
    reach_P1 = torch.arange(1, module.points + 1)[:, None]
    ring = direction_M2[:, None, None] * reach_P1
    ring = ring.expand(module.heads, module.levels, module.points, 2)
    with torch.no_grad():
        nn.init.zeros_(module.sampling_offsets.weight)
        module.sampling_offsets.bias.copy_(ring.reshape(-1))
        nn.init.zeros_(module.attention_weights.weight)
        nn.init.zeros_(module.attention_weights.bias)
    for projection in (module.value_proj, module.output_proj):
        nn.init.xavier_uniform_(projection.weight)
        nn.init.zeros_(projection.bias)

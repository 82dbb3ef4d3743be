"""A head with the weights of the recorded runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from vpp_deploy.checkpoints.formula import Size, formula_config, formula_tensors
from vpp_deploy.models.deformable import Sampler, sample_grid
from vpp_deploy.models.head import HeadOutput, VppHead

KEY_PREFIX = "detector.panoptic_head."


def formula_head(
    size: Size,
    sampler: Sampler = sample_grid,
    pixel_layers: int = 6,
    decoder_layers: int = 9,
) -> VppHead:
    """A head in evaluation mode, without gradients."""
    config = replace(formula_config(size), pixel_layers=pixel_layers, decoder_layers=decoder_layers)
    head = VppHead(config, sampler)
    shapes = tuple((key, tuple(tensor.shape)) for key, tensor in head.state_dict().items())
    head.load_state_dict(_weights(shapes))
    return head.eval().requires_grad_(False)


@cache
def _weights(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Tensor]:
    """Made once for all tests: drawing them takes seconds."""
    tensors = formula_tensors({KEY_PREFIX + key: shape for key, shape in shapes})
    return {key.removeprefix(KEY_PREFIX): torch.from_numpy(v) for key, v in tensors.items()}


def random_features(batch: int, seed: int = 0, width: int = 192) -> tuple[Tensor, ...]:
    """f1 to f4 for an input of 128x160."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, width, 128 // stride, 160 // stride, generator=generator)
        for stride in (4, 8, 16, 32)
    )


def mask_logits(output: HeadOutput) -> Tensor:
    """(B, Q, H/4, W/4) of the last layer."""
    embeds, features = output.mask_embeds_BQD, output.mask_features_BDHW
    return torch.einsum("bqd,bdhw->bqhw", embeds, features)


def assert_same_predictions(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Class logits, mask embeddings, mask features and queries, within float rounding."""
    for ours, theirs in zip(actual[:4], expected[:4], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vpp_deploy.checkpoints.formula import formula_config, write_formula_checkpoint
from vpp_deploy.checkpoints.load import build_model, load_model
from vpp_deploy.checkpoints.reader import Checkpoint
from vpp_deploy.errors import CheckpointError
from vpp_deploy.recipes import ModelSettings

Make = Callable[..., Checkpoint]


@pytest.mark.parametrize("size", ["tiny", "dense-tiny"])
def test_a_published_checkpoint_loads(tmp_path: Path, size: str) -> None:
    path = tmp_path / "model.safetensors"
    write_formula_checkpoint(path, size)  # type: ignore[arg-type]
    model, checkpoint = load_model(path, ModelSettings())
    assert model.config == formula_config(size)  # type: ignore[arg-type]
    assert checkpoint.path == path
    assert not model.training
    state = model.state_dict()
    for key, tensor in state.items():
        assert torch.equal(tensor, checkpoint.tensors[key]), key
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_counters_may_be_missing_and_halves_are_widened(make_checkpoint: Make) -> None:
    changes: dict[str, torch.Tensor | None] = {
        key: None for key in make_checkpoint().tensors if key.endswith("num_batches_tracked")
    }
    changes["backbone.level_embed"] = torch.ones(192, 3, dtype=torch.float16).t()
    model = build_model(make_checkpoint(changes), ModelSettings())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    level_embed = model.state_dict()["backbone.level_embed"]
    assert level_embed.dtype == torch.float32
    assert level_embed.is_contiguous()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("backbone.up.bias", torch.full((192,), float("nan")), "backbone.up.bias has NaN"),
        ("backbone.up.bias", torch.full((192,), float("inf")), "backbone.up.bias has NaN"),
        ("backbone.up.bias", torch.ones(192, dtype=torch.int64), "backbone.up.bias is torch.int64"),
        ("backbone.up.bias", torch.ones(3), "backbone.up 1 (e.g. bias has (3,), expected (192,))"),
        ("backbone.up.bias", None, "1 missing: backbone.up 1"),
        ("backbone.down.bias", torch.ones(3), "1 unexpected: backbone.down 1"),
    ],
)
def test_weights_that_do_not_fit(
    make_checkpoint: Make, key: str, value: torch.Tensor | None, words: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_model(make_checkpoint({key: value}), ModelSettings())
    assert str(caught.value).startswith("model.pth: ")
    assert words in str(caught.value)


def test_infinities_that_cancel_are_found(make_checkpoint: Make) -> None:
    bias = torch.zeros(192)
    bias[0], bias[1] = float("inf"), float("-inf")
    with pytest.raises(CheckpointError, match=r"backbone\.up\.bias"):
        build_model(make_checkpoint({"backbone.up.bias": bias}), ModelSettings())


def test_a_crafted_size_takes_no_memory(make_checkpoint: Make) -> None:
    huge = torch.ones(1).expand(1 << 40, 1)
    key = "panoptic_head.transformer_decoder.layers.0.ffns.0.layers.0.0.weight"
    with pytest.raises(CheckpointError, match="misshapen"):
        build_model(make_checkpoint({key: huge}), ModelSettings())


def test_the_recipe_reaches_the_model(make_checkpoint: Make) -> None:
    settings = dataclasses.replace(ModelSettings(), reference_tokens="entry_of_block_1")
    assert build_model(make_checkpoint(), settings).config.reference_tokens == "entry_of_block_1"

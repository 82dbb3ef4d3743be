from pathlib import Path

import pytest
import torch

from vpp_deploy.checkpoints.keys import canonical_key, check_keys, is_unused, official_key
from vpp_deploy.errors import CheckpointError


@pytest.mark.parametrize(
    ("vpp", "dense"),
    [
        ("self_attn.in_proj_weight", "attn.qkv.weight"),
        ("self_attn.in_proj_bias", "attn.qkv.bias"),
        ("self_attn.out_proj.weight", "attn.proj.weight"),
        ("self_attn.out_proj.bias", "attn.proj.bias"),
        ("linear1.weight", "mlp.fc1.weight"),
        ("linear2.bias", "mlp.fc2.bias"),
        ("norm1.weight", "norm1.weight"),
        ("norm2.bias", "norm2.bias"),
    ],
)
def test_both_spellings_of_a_block(vpp: str, dense: str) -> None:
    official_vpp = f"detector.backbone.blocks.10.TransformerEncoderLayer.{vpp}"
    official_dense = f"detector.backbone.blocks.10.{dense}"
    canonical = f"backbone.blocks.10.{dense}"
    assert canonical_key(official_vpp) == canonical_key(official_dense) == canonical
    assert official_key(canonical, pruned=True) == official_vpp
    assert official_key(canonical, pruned=False) == official_dense


@pytest.mark.parametrize(
    "key",
    [
        "backbone.selective_modules.0.mlp.fc1.weight",
        "backbone.interactions.0.matching_module.selector.fc2.bias",
        "backbone.interactions.3.extra_extractors.1.ffn.fc1.weight",
        "panoptic_head.transformer_decoder.layers.0.attentions.1.attn.out_proj.weight",
    ],
)
def test_other_keys_only_lose_their_prefix(key: str) -> None:
    assert canonical_key(f"detector.{key}") == key
    assert canonical_key(key) == key
    assert official_key(key, pruned=True) == official_key(key, pruned=False) == f"detector.{key}"


@pytest.mark.parametrize("kind", ["vpp_tiny", "vpp_small", "dense_tiny", "dense_small"])
def test_every_published_key_there_and_back(shared: Path, kind: str) -> None:
    lines = (shared / "checkpoints" / f"manifest_{kind}.tsv").read_text().splitlines()[1:]
    keys = [line.split("\t")[0] for line in lines]
    canonical = [canonical_key(key) for key in keys]
    assert len(set(canonical)) == len(keys)
    assert [official_key(key, kind.startswith("vpp")) for key in canonical] == keys


def test_what_inference_never_uses() -> None:
    module = "backbone.interactions.0.matching_module"
    assert is_unused(f"{module}.init_mlp.weight")
    assert is_unused(f"{module}.norm_input.bias")
    assert is_unused("backbone.norm1.num_batches_tracked")
    assert not is_unused(f"{module}.norm_selector.bias")
    assert not is_unused(f"{module}.selector.fc1.weight")


def test_keys_that_fit() -> None:
    tensors = {"a.b": torch.ones(2), "m.num_batches_tracked": torch.tensor(1)}
    check_keys(tensors, {"a.b": (2,), "n.num_batches_tracked": ()})


def test_all_misfits_in_one_line_by_module() -> None:
    injector = "backbone.interactions.0.injector"
    expected = {
        f"{injector}.gamma": (192,),
        f"{injector}.attn.value_proj.weight": (192, 192),
        f"{injector}.attn.value_proj.bias": (192,),
        "panoptic_head.cls_embed.weight": (41, 256),
    }
    tensors = {
        f"{injector}.gamma": torch.ones(4),
        "panoptic_head.cls_embed.weight": torch.ones(41, 256),
        "neck.convs.0.conv.weight": torch.ones(1),
    }
    with pytest.raises(CheckpointError) as caught:
        check_keys(tensors, expected)
    message = str(caught.value)
    assert "\n" not in message
    assert f"2 missing: {injector} 2 (e.g. attn.value_proj.bias)" in message
    assert "1 unexpected: neck.convs.0.conv 1 (e.g. weight)" in message
    assert f"1 misshapen: {injector} 1 (e.g. gamma has (4,), expected (192,))" in message
    assert "cls_embed" not in message


def test_a_long_list_is_cut() -> None:
    with pytest.raises(CheckpointError, match=r"20 missing.*and 14 more modules"):
        check_keys({}, {f"part.{n}.a.b.weight": (1,) for n in range(20)})

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vpp_deploy.checkpoints.reader import Checkpoint
from vpp_deploy.checkpoints.settings import identify, infer_config
from vpp_deploy.errors import CheckpointError, RecipeError, VppDeployError
from vpp_deploy.models.config import YOUTUBE_VIS_2021
from vpp_deploy.recipe_files import ModelIdentity
from vpp_deploy.recipes import ModelSettings

Make = Callable[..., Checkpoint]
EVERYTHING: dict[str, Any] = {
    "vit_heads": 3,
    "adapter_heads": 6,
    "pixel_heads": 8,
    "decoder_heads": 8,
    "keep_ratio": 0.6,
    "classes": "youtube-vis-2021",
}


def message_of(kind: type[VppDeployError], checkpoint: Checkpoint, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        infer_config(checkpoint, ModelSettings(**settings))
    message = str(caught.value)
    assert message.startswith("model.pth: ")
    assert "\n" not in message
    return message


def test_a_checkpoint_that_says_it_all(make_checkpoint: Make) -> None:
    config = infer_config(make_checkpoint(), ModelSettings())
    assert (config.width, config.vit_heads, config.adapter_heads) == (192, 3, 6)
    assert (config.pixel_heads, config.decoder_heads) == (8, 8)
    assert config.pruned
    assert config.keep_ratio == 0.6
    assert config.reference_tokens == "after_block_2"
    assert (config.selector_width, config.map_selector_width) == (48, 96)
    assert (config.num_blocks, config.patch_size, config.mlp_width) == (12, 16, 768)
    assert (config.pos_grid, config.stem_width, config.adapter_points) == (14, 64, 4)
    assert (config.adapter_ffn_width, config.head_width, config.pixel_layers) == (48, 256, 6)
    assert (config.pixel_points, config.pixel_ffn_width) == (4, 1024)
    assert (config.decoder_layers, config.decoder_ffn_width, config.num_queries) == (9, 2048, 100)
    assert config.classes == YOUTUBE_VIS_2021


def test_a_recipe_that_says_it_all(make_checkpoint: Make) -> None:
    bare = make_checkpoint(text=None, classes=None)
    settings = ModelSettings(**EVERYTHING, reference_tokens="entry_of_block_1")
    config = infer_config(bare, settings)
    assert config.keep_ratio == 0.6
    assert config.reference_tokens == "entry_of_block_1"
    assert config.classes == YOUTUBE_VIS_2021


@pytest.mark.parametrize("gap", sorted(EVERYTHING))
def test_a_gap_names_the_key_to_set(make_checkpoint: Make, gap: str) -> None:
    bare = make_checkpoint(text=None, classes=None)
    rest = {key: value for key, value in EVERYTHING.items() if key != gap}
    assert f"set model.{gap} in the recipe" in message_of(RecipeError, bare, **rest)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("vit_heads", 6),
        ("adapter_heads", 3),
        ("pixel_heads", 4),
        ("decoder_heads", 4),
        ("keep_ratio", 0.7),
        ("classes", ("ant", "bee")),
    ],
)
def test_a_contradiction_names_the_key_and_the_way_out(
    make_checkpoint: Make, key: str, wrong: object
) -> None:
    message = message_of(RecipeError, make_checkpoint(), **{key: wrong})
    assert f"model.{key}" in message
    assert "model.override_checkpoint = true" in message


def test_an_override_lets_the_recipe_win(make_checkpoint: Make) -> None:
    names = tuple(f"class {n}" for n in range(40))
    settings = ModelSettings(vit_heads=6, keep_ratio=0.5, classes=names, override_checkpoint=True)
    config = infer_config(make_checkpoint(), settings)
    assert (config.vit_heads, config.keep_ratio, config.classes) == (6, 0.5, names)
    assert config.decoder_heads == 8


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("vit_heads", 5), ("adapter_heads", 5), ("pixel_heads", 7), ("decoder_heads", 3)],
)
def test_heads_that_do_not_divide_the_width(make_checkpoint: Make, key: str, wrong: int) -> None:
    bare = make_checkpoint(text=None)
    message = message_of(RecipeError, bare, **(EVERYTHING | {key: wrong}))
    assert f"model.{key} = {wrong} does not fit" in message
    assert "divisor" in message


@pytest.mark.parametrize(("key", "wrong"), [("adapter_heads", 64), ("pixel_heads", 64)])
def test_heads_that_do_not_divide_the_sampling_offsets(
    make_checkpoint: Make, key: str, wrong: int
) -> None:
    bare = make_checkpoint(text=None)
    message = message_of(RecipeError, bare, **(EVERYTHING | {key: wrong}))
    assert f"model.{key} = {wrong} does not fit" in message
    assert "sampling_offsets" in message


def test_heads_that_contradict_the_points_in_the_text(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint(text="model = dict(backbone=dict(n_points=4))")
    message = message_of(RecipeError, checkpoint, **(EVERYTHING | {"adapter_heads": 3}))
    assert "model.adapter_heads = 3" in message
    assert "points" in message


@pytest.mark.parametrize("names", [("ant",), YOUTUBE_VIS_2021[:-1], (*YOUTUBE_VIS_2021, "bee")])
def test_a_wrong_number_of_class_names(make_checkpoint: Make, names: tuple[str, ...]) -> None:
    checkpoint = make_checkpoint(classes=names)
    message = message_of(RecipeError, checkpoint)
    assert "40 classes" in message
    assert "model.classes" in message


def test_class_names_are_never_guessed(make_checkpoint: Make) -> None:
    assert "model.classes" in message_of(RecipeError, make_checkpoint(classes=None))


def test_a_dense_checkpoint(make_checkpoint: Make) -> None:
    dense = dense_checkpoint(make_checkpoint)
    config = infer_config(dense, ModelSettings())
    assert not config.pruned
    assert config.keep_ratio is None
    assert config.selector_width is None
    assert config.map_selector_width is None
    assert "model.keep_ratio" in message_of(RecipeError, dense, keep_ratio=0.7)


def dense_checkpoint(make_checkpoint: Make) -> Checkpoint:
    selectors = {
        key: None
        for key in make_checkpoint().tensors
        if "selective_modules" in key or "matching_module" in key
    }
    return make_checkpoint(selectors)


def test_the_selectors_width_comes_from_the_weights(make_checkpoint: Make) -> None:
    """The published Small text gives another width, which is not to be trusted."""
    text = "model = dict(backbone=dict(selective_module=dict(emb_dim=999, hidden_dim=999)))"
    assert (
        infer_config(make_checkpoint(text=text), ModelSettings(**EVERYTHING)).selector_width == 48
    )


@pytest.mark.parametrize("ratio", ["0", "1.5", "'0.7'", "True", "None", "[0.7]"])
def test_a_senseless_keep_ratio_in_the_text_says_nothing(make_checkpoint: Make, ratio: str) -> None:
    text = f"model = dict(backbone=dict(matching_module=dict(keep_ratio={ratio})))"
    settings = {key: value for key, value in EVERYTHING.items() if key != "keep_ratio"}
    assert "set model.keep_ratio" in message_of(RecipeError, make_checkpoint(text=text), **settings)


@pytest.mark.parametrize(
    "entry",
    [
        "interaction_indexes=[[0, 5], [6, 11]]",
        "select_module_ids=[2, 5, 8]",
        "matching_module_idx=0",
        "prev_x_update_layer=8",
    ],
)
def test_an_arrangement_that_we_do_not_build(make_checkpoint: Make, entry: str) -> None:
    checkpoint = make_checkpoint(text=f"model = dict(backbone=dict({entry}))")
    assert entry.split("=")[0] in message_of(CheckpointError, checkpoint, **EVERYTHING)


def test_the_published_arrangement(make_checkpoint: Make) -> None:
    text = (
        "model = dict(detector=dict(backbone=dict(select_module_ids=[3, 6, 9], "
        "interaction_indexes=[[0, 2], [3, 5], [6, 8], [9, 11]], matching_module_idx=1, "
        "prev_x_update_layer=5)))"
    )
    assert infer_config(make_checkpoint(text=text), ModelSettings(**EVERYTHING)).num_blocks == 12


def test_mmdet_3_spells_heads_otherwise(make_checkpoint: Make) -> None:
    layer = "layer_cfg=dict(self_attn_cfg=dict(num_heads=8))"
    text = (
        f"model = dict(panoptic_head=dict(pixel_decoder=dict(encoder=dict({layer})), "
        f"transformer_decoder=dict({layer})))"
    )
    settings = {key: EVERYTHING[key] for key in ("vit_heads", "adapter_heads", "keep_ratio")}
    config = infer_config(make_checkpoint(text=text), ModelSettings(**settings))
    assert (config.pixel_heads, config.decoder_heads) == (8, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone.patch_embed.proj.weight": None}, "patch_embed.proj.weight is missing"),
        ({"backbone.pos_embed": torch.ones(3)}, "backbone.pos_embed has shape (3,)"),
        ({"backbone.blocks.12.norm1.bias": torch.ones(1)}, "13 blocks; expected a multiple of 4"),
        ({"backbone.patch_embed.proj.weight": torch.ones(192, 3, 8, 8)}, "8 pixels wide; only 16"),
    ],
)
def test_weights_of_another_model(
    make_checkpoint: Make, changes: dict[str, torch.Tensor | None], words: str
) -> None:
    assert words in message_of(CheckpointError, make_checkpoint(changes), **EVERYTHING)


def test_identity(make_checkpoint: Make) -> None:
    assert identify(make_checkpoint()) == ModelIdentity(True, 192, 0.6)
    assert identify(make_checkpoint(text=None)) == ModelIdentity(True, 192, None)
    assert identify(dense_checkpoint(make_checkpoint)) == ModelIdentity(False, 192, None)

import dataclasses
from pathlib import Path

import pytest

from vpp_deploy.errors import RecipeError
from vpp_deploy.recipe_files import ModelIdentity, find_recipe, load_recipe, write_recipe
from vpp_deploy.recipes import Budgets, BudgetShares, ExportRecipe, ModelSettings

RECIPES = Path(__file__).parents[2] / "export"
SHARES = "[budgets]\nblocks_3_5 = 0.56\nblocks_6_8 = 0.448\nblocks_9_11 = 0.358\n"
SIZE = "[input]\nsize = [544, 960]\n"


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_every_key_is_read(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            """
            [model]
            vit_heads = 3
            adapter_heads = 6
            pixel_heads = 8
            decoder_heads = 4
            keep_ratio = 1
            reference_tokens = "entry_of_block_1"
            classes = ["ant", "bee"]
            override_checkpoint = true
            [input]
            size = [128, 160]
            batch = 2
            [tracks]
            slots = 5
            [export]
            precision = "fp32"
            """
            + SHARES,
        )
    )
    assert recipe.model == ModelSettings(
        3, 6, 8, 4, 1.0, "entry_of_block_1", ("ant", "bee"), override_checkpoint=True
    )
    assert (recipe.height, recipe.width, recipe.batch, recipe.slots) == (128, 160, 2, 5)
    assert recipe.budgets == BudgetShares(0.56, 0.448, 0.358)
    assert recipe.num_tokens == 80


@pytest.mark.parametrize(
    "recipe",
    [
        ExportRecipe(64, 96),
        ExportRecipe(544, 960, budgets=BudgetShares(0.5, 0.1234567, 1e-3), precision="int8"),
        ExportRecipe(
            192,
            320,
            model=ModelSettings(
                3,
                6,
                8,
                4,
                0.7,
                "entry_of_block_1",
                ("plain", 'a "quoted"\\name', "two\nlines", "\x00\x1f\x7f", "caf\u00e9 \U0001f41f"),
                override_checkpoint=True,
            ),
            batch=3,
            budgets=BudgetShares(0.7, 0.3, 0.2),
            slots=5,
            precision="fp16",
            target="gpu",
        ),
    ],
)
def test_what_is_written_is_read_as_it_was(tmp_path: Path, recipe: ExportRecipe) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_all_but_the_size_may_be_left_out(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SIZE))
    assert recipe.model == ModelSettings()
    assert recipe.budgets is None
    assert (recipe.batch, recipe.slots) == (1, 32)
    assert (recipe.precision, recipe.target) == ("fp32", "cpu")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["input.size is missing"]),
        ("[input]\nbatch = 1", ["input.size is missing"]),
        ("[input]\nsize = [540, 960]", ["input.size", "multiples of 32"]),
        ("[input]\nsize = [32, 960]", ["input.size", "64"]),
        ("[input]\nsize = [544]", ["input.size", "two whole numbers"]),
        ("[input]\nsize = [544, true]", ["input.size"]),
        ("[input]\nsize = 544", ["input.size"]),
        ("[input]\nsize = [544, 960]\nbatch = 0", ["input.batch"]),
        ("[input]\nsize = [544, 960]\nbatch = true", ["input.batch", "whole number"]),
        ("[input]\nsize = [544, 960]\nbatch = 1.0", ["input.batch", "whole number"]),
        ("[inptu]\n", ["inptu", "did you mean input?"]),
        ("colour = 3\n", ["colour", "expected model, input"]),
        ("input = 3\n", ["input = 3", "table"]),
        (SIZE + "[tracks]\nslot = 1", ["tracks.slot ", "tracks.slots"]),
        (SIZE + "[tracks]\nslots = 0", ["tracks.slots"]),
        (
            SIZE + '[export]\nprecision = "fp16"\ntarget = "cpu"',
            ["export.target", "gpu", "export.precision", "fp16"],
        ),
        (
            SIZE + '[export]\nprecision = "int8"\ntarget = "gpu"',
            ["export.target", "cpu", "export.precision", "int8"],
        ),
        (SIZE + '[export]\nprecision = "int4"', ["export.precision", "int4", "int8"]),
        (
            '[input]\nsize = [544, 960]\nbatch = 2\n[export]\nprecision = "int8"',
            ["export.precision", "input.batch is 2"],
        ),
        (SIZE + '[export]\ntarget = "tpu"', ["export.target", "cpu", "gpu"]),
        (SIZE + "[model]\nkeep_ratoi = 0.7", ["model.keep_ratoi", "model.keep_ratio"]),
        (SIZE + "[model]\nkeep_ratio = 0", ["model.keep_ratio", "above 0"]),
        (SIZE + "[model]\nkeep_ratio = nan", ["model.keep_ratio"]),
        (SIZE + "[model]\nkeep_ratio = 1.1", ["model.keep_ratio"]),
        (SIZE + '[model]\nkeep_ratio = "0.7"', ["model.keep_ratio", "a number"]),
        (SIZE + "[model]\nvit_heads = 0", ["model.vit_heads"]),
        (SIZE + '[model]\nreference_tokens = "block_2"', ["model.reference_tokens", "after_block"]),
        (SIZE + '[model]\nclasses = "coco"', ["model.classes", "youtube-vis-2021"]),
        (SIZE + "[model]\nclasses = [1]", ["model.classes", "list of strings"]),
        (SIZE + "[model]\nclasses = []", ["model.classes"]),
        (SIZE + '[model]\nclasses = ["a", "a"]', ["model.classes"]),
        (SIZE + "[model]\noverride_checkpoint = 1", ["model.override_checkpoint", "true"]),
        (SIZE + "[model]\nvit_heads = 1979-05-27", ["model.vit_heads"]),
        (SIZE + "[budgets]\nblocks_3_5 = 0.5", ["budgets.blocks_6_8 is missing"]),
        (SIZE + SHARES.replace("0.56", "0.0"), ["budgets.blocks_3_5"]),
        (SIZE + SHARES + "[model]\nkeep_ratio = 0.5", ["budgets.blocks_3_5", "model.keep_ratio"]),
        ("[input\n", ["not valid TOML"]),
        ("a = " + "[" * 10000, ["not valid TOML"]),
    ],
)
def test_a_bad_recipe_is_refused_with_file_and_key(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    message = refused(tmp_path, text)
    for word in words:
        assert word in message


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.toml: cannot read"):
        load_recipe(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"binary\.toml: not valid TOML"):
        load_recipe(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("num_tokens", "keep_ratio", "expected"), [(80, 0.6, 48), (2040, 0.7, 1428), (180, 0.7, 125)]
)
def test_budgets_truncate_the_float_product(
    num_tokens: int, keep_ratio: float, expected: int
) -> None:
    assert BudgetShares(0.3, 0.2, 0.1).tokens(num_tokens, keep_ratio).blocks_1_2 == expected


def test_budgets_of_the_published_input() -> None:
    assert BudgetShares(0.56, 0.448, 0.358).tokens(2040, 0.7) == Budgets(1428, 1142, 913, 730)
    assert BudgetShares(0.42, 0.294, 0.206).tokens(2040, 0.6) == Budgets(1224, 856, 599, 420)


@pytest.mark.parametrize(
    ("shares", "num_tokens", "keep_ratio", "words"),
    [
        ((0.3, 0.4, 0.2), 100, 0.7, ["budgets.blocks_6_8", "40", "30 of budgets.blocks_3_5"]),
        ((0.8, 0.4, 0.2), 100, 0.7, ["budgets.blocks_3_5", "80", "70 of model.keep_ratio"]),
        ((0.3, 0.2, 0.01), 20, 0.7, ["budgets.blocks_9_11", "keeps 0"]),
        ((0.3, 0.2, 0.1), 6400, 0.7, ["model.keep_ratio", "4480", "3840", "input.size"]),
    ],
)
def test_impossible_budgets_are_refused(
    shares: tuple[float, float, float], num_tokens: int, keep_ratio: float, words: list[str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        BudgetShares(*shares).tokens(num_tokens, keep_ratio)
    for word in words:
        assert word in str(caught.value)


def test_a_changed_copy_is_checked_too(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SIZE))
    assert dataclasses.replace(recipe, height=64).num_tokens == 240
    with pytest.raises(RecipeError, match=r"input\.size"):
        dataclasses.replace(recipe, height=65)


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (ModelIdentity(True, 192, 0.7), "tiny-52.toml"),
        (ModelIdentity(True, 192, 0.6), "tiny-40.toml"),
        (ModelIdentity(True, 384, 0.6), "small-40.toml"),
        (ModelIdentity(False, 192, None), "dense-tiny.toml"),
        (ModelIdentity(False, 384, None), "dense-small.toml"),
    ],
)
def test_the_published_recipes_are_found_by_checkpoint(identity: ModelIdentity, name: str) -> None:
    assert find_recipe(RECIPES, identity).name == name


def test_a_small_checkpoint_cannot_tell_its_recipe() -> None:
    with pytest.raises(RecipeError, match=r"small-52\.toml.*small-40\.toml"):
        find_recipe(RECIPES, ModelIdentity(True, 384, 0.7))


def test_published_recipes_have_the_published_input() -> None:
    recipes = [load_recipe(path) for path in RECIPES.glob("*.toml")]
    assert len(recipes) == 6
    for recipe in recipes:
        assert (recipe.height, recipe.width, recipe.batch, recipe.slots) == (544, 960, 1, 32)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (ModelIdentity(True, 192, None), ["model.keep_ratio", "--recipe"]),
        (ModelIdentity(True, 192, 0.65), ["model.keep_ratio 0.65", "found none", "--recipe"]),
        (ModelIdentity(False, 768, None), ["768", "dense", "--recipe"]),
    ],
)
def test_no_recipe_fits(identity: ModelIdentity, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe(RECIPES, identity)
    for word in words:
        assert word in str(caught.value)


def test_two_recipes_that_fit_are_both_named(tmp_path: Path) -> None:
    for name in ("one.toml", "two.toml"):
        write(tmp_path, "[model]\nvit_heads = 3\n" + SIZE, name)
    with pytest.raises(RecipeError, match=r"one\.toml, two\.toml.*--recipe"):
        find_recipe(tmp_path, ModelIdentity(False, 192, None))

"""Engine recipes, architectures, and what is built for what."""

from pathlib import Path

import pytest

from vpp_deploy.engines.architectures import RTX_DEFAULT, parse_sm, sm_numbers
from vpp_deploy.engines.recipes import EngineRecipe, load_engine_recipe
from vpp_deploy.engines.target import Gpu, Target, choose_target
from vpp_deploy.errors import EngineError, RecipeError

ROOT = Path(__file__).parents[3]
AMPERE = Gpu("RTX 3090", "8.6", "580.65")
HOPPER = Gpu("H100", "9.0", None)


def test_a_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'backend = "tensorrt-rtx"\nprecision = "bf16"\narchitectures = ["8.6", "12.0"]\n'
        "workspace_mb = 512\nlevel = 0\nmax_frame_size = [1080, 1920]\n"
    )
    assert load_engine_recipe(path) == EngineRecipe(
        "tensorrt-rtx", "bf16", ("8.6", "12.0"), 512, 0, (1080, 1920)
    )


@pytest.mark.parametrize("path", sorted((ROOT / "engines").glob("*.toml")), ids=lambda p: p.stem)
def test_published_recipes_are_sound(path: Path) -> None:
    recipe = load_engine_recipe(path)
    assert recipe.backend is not None
    assert recipe.precision is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("levle = 3", "levle is not a key"),
        ('level = "3"', "level = '3'; expected a whole number"),
        ("level = true", "level = True; expected a whole number"),
        ("level = 6", "level = 6; expected 0 to 5"),
        ('backend = "onnxruntime"', "backend = 'onnxruntime'"),
        ('precision = "int8"', "precision = 'int8'"),
        ('architectures = ["86"]', "architectures = "),
        ('architectures = ["8.6", "8.6"]', "each once"),
        ('architectures = "8.6"', "expected a list of strings"),
        ("max_frame_size = [1080]", "expected a list of two whole numbers"),
        ("max_frame_size = [0, 1920]", "max_frame_size = "),
        ("workspace_mb = 0", "workspace_mb = 0"),
        ("level =", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_engine_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_engine_recipe(Path("nowhere.toml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("86", ("8.6",)), ("86,89, 120", ("8.6", "8.9", "12.0")), ("SM86,sm75", ("8.6", "7.5"))],
)
def test_architectures_are_read(text: str, expected: tuple[str, ...]) -> None:
    assert parse_sm(text) == expected
    assert parse_sm(sm_numbers(expected)) == expected


@pytest.mark.parametrize("text", ["", "8.6", "6", "86,", "86;89", "86,86", "ampere", "1200"])
def test_no_architectures(text: str) -> None:
    with pytest.raises(RecipeError, match="names no architectures"):
        parse_sm(text)


@pytest.mark.parametrize(
    ("backend", "asked", "gpu", "expected"),
    [
        ("tensorrt", (), HOPPER, Target("tensorrt", ("9.0",), HOPPER, False)),
        ("tensorrt", ("9.0",), HOPPER, Target("tensorrt", ("9.0",), HOPPER, False)),
        ("tensorrt-rtx", (), None, Target("tensorrt-rtx", RTX_DEFAULT, None, True)),
        ("tensorrt-rtx", (), AMPERE, Target("tensorrt-rtx", RTX_DEFAULT, AMPERE, True)),
        ("tensorrt-rtx", (), HOPPER, Target("tensorrt-rtx", ("9.0",), HOPPER, False)),
        ("tensorrt-rtx", ("8.9",), AMPERE, Target("tensorrt-rtx", ("8.9",), None, True)),
        ("tensorrt-rtx", ("8.6",), AMPERE, Target("tensorrt-rtx", ("8.6",), AMPERE, True)),
    ],
)
def test_what_is_built_for(
    backend: str, asked: tuple[str, ...], gpu: Gpu | None, expected: Target
) -> None:
    assert choose_target(backend, asked, gpu) == expected


def test_tensorrt_needs_the_gpu() -> None:
    with pytest.raises(EngineError, match="this machine has none that works"):
        choose_target("tensorrt", (), None)
    with pytest.raises(EngineError, match=r"here 9.0 \(H100\), not for 8.6"):
        choose_target("tensorrt", ("8.6",), HOPPER)

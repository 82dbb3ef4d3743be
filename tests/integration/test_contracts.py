"""The golden contracts in export/golden: what a recipe's graphs take and give, byte for byte.

Whoever builds on a bundle relies on names, types and shapes. A change of them is a decision: run
this file as a script to write the contracts anew, and say why in the commit.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from vpp_deploy.checkpoints.formula import Size, formula_config
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.plan import plan_pipeline
from vpp_deploy.recipe_files import load_recipe

EXPORT = Path(__file__).parents[2] / "export"
RECIPES = sorted(path.stem for path in EXPORT.glob("*.toml"))


def contract(name: str) -> dict[str, Any]:
    recipe = load_recipe(EXPORT / f"{name}.toml")
    size = next(s for s in get_args(Size) if name in (s, f"{s}-40", f"{s}-52"))
    with torch.device("meta"):
        model = VppModel(formula_config(size)).eval()
    budgets = None
    if recipe.budgets is not None:
        assert recipe.model.keep_ratio is not None
        budgets = recipe.budgets.tokens(recipe.num_tokens, recipe.model.keep_ratio)
    input_size = (recipe.height, recipe.width)
    spec = plan_pipeline(model, input_size, budgets, recipe.slots, recipe.batch).spec
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    return document


@pytest.mark.parametrize("name", RECIPES)
def test_contract_is_the_golden_one(name: str) -> None:
    assert contract(name) == json.loads((EXPORT / "golden" / f"{name}.json").read_text())


def test_every_recipe_has_a_contract() -> None:
    assert sorted(path.stem for path in (EXPORT / "golden").glob("*.json")) == RECIPES


if __name__ == "__main__":
    for recipe_name in RECIPES:
        text = json.dumps(contract(recipe_name), indent=1) + "\n"
        (EXPORT / "golden" / f"{recipe_name}.json").write_text(text)

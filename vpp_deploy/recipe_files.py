"""Recipe files: TOML with strict keys, and the one that is made for a checkpoint.

No torch here.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpp_deploy.errors import RecipeError
from vpp_deploy.recipes import BudgetShares, ExportRecipe, ModelSettings, refuse, target_of

_MAX_BYTES = 1 << 18

_HEAD_WIDTH = 64
"""Channels per attention head of the ViT, in both published sizes (MODEL.md, first table)."""


@dataclass(frozen=True)
class ModelIdentity:
    """What a checkpoint says about itself, enough to choose a recipe.

    `width` is the ViT's embedding width C; `keep_ratio` is None where no config text says it.
    """

    pruned: bool
    width: int
    keep_ratio: float | None


_AMBIGUOUS = ModelIdentity(pruned=True, width=384, keep_ratio=0.7)


_KEYS: dict[str, dict[str, str]] = {
    "model": {
        "vit_heads": "a whole number",
        "adapter_heads": "a whole number",
        "pixel_heads": "a whole number",
        "decoder_heads": "a whole number",
        "keep_ratio": "a number",
        "reference_tokens": "a string",
        "classes": "a string or a list of strings",
        "override_checkpoint": "true or false",
    },
    "input": {"size": "a list of two whole numbers", "batch": "a whole number"},
    "budgets": {
        "blocks_3_5": "a number",
        "blocks_6_8": "a number",
        "blocks_9_11": "a number",
    },
    "tracks": {"slots": "a whole number"},
    "export": {"precision": "a string", "target": "a string"},
}
_REQUIRED = ("input.size", "budgets.blocks_3_5", "budgets.blocks_6_8", "budgets.blocks_9_11")


def load_recipe(path: str | Path) -> ExportRecipe:
    """Read a recipe; `export/` holds the published ones.

    Raises:
        RecipeError: the file cannot be read, or a key is unknown, missing, of the wrong type or
            out of range. The message names the file and the dotted key.
    """
    path = Path(path)
    try:
        return _build(read_toml(path))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The document in a recipe file.

    Raises:
        RecipeError: the file cannot be read, or is not TOML; the message does not name it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise RecipeError(f"it has more than {_MAX_BYTES} bytes; expected a recipe")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe ({error.strerror}); expected a TOML file"
        ) from error
    except ValueError as error:
        raise RecipeError(f"not valid TOML: {error}") from error
    except RecursionError as error:
        raise RecipeError("not valid TOML: nested too deeply") from error


def write_recipe(recipe: ExportRecipe) -> str:
    """The text of a file that `load_recipe` reads as this recipe."""
    tables: dict[str, Mapping[str, object]] = {
        "model": dataclasses.asdict(recipe.model),
        "input": {"size": (recipe.height, recipe.width), "batch": recipe.batch},
        "budgets": {} if recipe.budgets is None else dataclasses.asdict(recipe.budgets),
        "tracks": {"slots": recipe.slots},
        "export": {"precision": recipe.precision, "target": recipe.target},
    }
    parts = []
    for table, values in tables.items():
        lines = [
            f"{key} = {_toml(value)}"
            for key, value in values.items()
            if value is not None and value is not False
        ]
        if lines:
            parts.append("\n".join([f"[{table}]", *lines]) + "\n")
    return "\n".join(parts)


def _toml(value: object) -> str:
    # JSON writes numbers, lists, true and strings as TOML does, but for DEL, which TOML escapes.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def find_recipe(folder: str | Path, identity: ModelIdentity) -> Path:
    """The one recipe in `folder` that is made for such a checkpoint.

    Raises:
        RecipeError: the checkpoint does not say its keep ratio, or not exactly one recipe fits.
    """
    folder = Path(folder)
    if identity.pruned and identity.keep_ratio is None:
        raise RecipeError(
            "the checkpoint's config text does not say its keep ratio, so no recipe can be chosen; "
            "give one with --recipe that sets model.keep_ratio"
        )
    if identity == _AMBIGUOUS:
        raise RecipeError(
            "the published config of Small at ~40 % repeats the ratios of Small at ~52 %, so the "
            f"checkpoint cannot tell which it is; give --recipe {folder / 'small-52.toml'}, or "
            f"{folder / 'small-40.toml'} with model.override_checkpoint = true"
        )
    fitting = [path for path in sorted(folder.glob("*.toml")) if _fits(load_recipe(path), identity)]
    if len(fitting) == 1:
        return fitting[0]
    kind = f"pruned, model.keep_ratio {identity.keep_ratio}" if identity.pruned else "dense"
    found = ", ".join(path.name for path in fitting) or "none"
    raise RecipeError(
        f"{folder}: expected one recipe for this checkpoint (width {identity.width}, {kind}), "
        f"found {found}; give one with --recipe"
    )


def _fits(recipe: ExportRecipe, identity: ModelIdentity) -> bool:
    if recipe.model.vit_heads is None or recipe.model.vit_heads * _HEAD_WIDTH != identity.width:
        return False
    if not identity.pruned:
        return recipe.budgets is None
    return recipe.budgets is not None and recipe.model.keep_ratio == identity.keep_ratio


def _build(document: Mapping[str, object]) -> ExportRecipe:
    values: dict[str, dict[str, object]] = {}
    for table, entries in document.items():
        if table not in _KEYS:
            raise RecipeError(_unknown(table, _KEYS))
        if not isinstance(entries, dict):
            refuse(table, entries, f"a table, [{table}]")
        values[table] = {key: _checked(table, key, value) for key, value in entries.items()}
    for dotted in _REQUIRED:
        table, key = dotted.split(".")
        if key not in values.get(table, {}) and (table in values or table == "input"):
            raise RecipeError(f"{dotted} is missing; expected {_KEYS[table][key]}")
    size = values["input"].pop("size")
    assert isinstance(size, tuple)
    export = values.get("export", {})
    export.setdefault("target", target_of(str(export.get("precision", "fp32"))))
    fields = values["input"] | values.get("tracks", {}) | export
    # The table of keys above has checked names and types, which mypy cannot see through **.
    model = ModelSettings(**values.get("model", {}))  # type: ignore[arg-type]
    budgets = BudgetShares(**values["budgets"]) if "budgets" in values else None  # type: ignore[arg-type]
    return ExportRecipe(size[0], size[1], model=model, budgets=budgets, **fields)  # type: ignore[arg-type]


def _checked(table: str, key: str, value: object) -> object:
    """`value` if it has the type that the table of keys asks for; lists as tuples."""
    if key not in _KEYS[table]:
        raise RecipeError(_unknown(key, _KEYS[table], f"{table}."))
    wanted = _KEYS[table][key]
    match value:
        case bool():
            fits = wanted == "true or false"
        case int():
            fits = wanted in ("a whole number", "a number")
        case float():
            fits = wanted == "a number"
        case str():
            fits = wanted in ("a string", "a string or a list of strings")
        case [*items] if wanted == "a list of two whole numbers":
            fits = len(items) == 2 and all(type(item) is int for item in items)
        case [*items]:
            fits = "list of strings" in wanted and all(isinstance(item, str) for item in items)
        case _:
            fits = False
    if not fits:
        refuse(f"{table}.{key}", value, wanted)
    return tuple(value) if isinstance(value, list) else value


def _unknown(key: str, known: Mapping[str, object], prefix: str = "") -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"expected {', '.join(known)}"
    return f"{prefix}{key} is not a key of a recipe; {hint}"

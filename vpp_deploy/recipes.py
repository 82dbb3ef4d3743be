"""Recipes: TOML files that say what a checkpoint's weights do not, and what to export.

A recipe is read with strict keys. Ranges are checked by the dataclasses themselves, so that a copy
made by `dataclasses.replace` is as sound as one that was loaded. No torch here.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from vpp_deploy.errors import RecipeError

MAX_BUDGET = 3840
"""TensorRT's TopK takes no larger K (NVIDIA/TensorRT#4390)."""

_HEAD_WIDTH = 64
"""Channels per attention head of the ViT, in both published sizes (MODEL.md, first table)."""

_STRIDE = 32
_MIN_SIDE, _MAX_SIDE = 64, 8192


@dataclass(frozen=True)
class ModelSettings:
    """What the weights do not say. None: the recipe leaves it to the checkpoint's config text.

    Attributes:
        vit_heads, adapter_heads, pixel_heads, decoder_heads: attention heads (MODEL.md 2, 3).
        keep_ratio: share of the tokens that Map-SM keeps, in (0, 1].
        reference_tokens: which tokens Map-SM compares with (MODEL.md 2.3).
        classes: class names without background, or the name of a known list.
        override_checkpoint: the recipe wins over the checkpoint's own config and class names.

    Raises:
        RecipeError: a value is out of range.
    """

    vit_heads: int | None = None
    adapter_heads: int | None = None
    pixel_heads: int | None = None
    decoder_heads: int | None = None
    keep_ratio: float | None = None
    reference_tokens: Literal["after_block_2", "entry_of_block_1"] | None = None
    classes: tuple[str, ...] | Literal["youtube-vis-2021"] | None = None
    override_checkpoint: bool = False

    def __post_init__(self) -> None:
        for name in ("vit_heads", "adapter_heads", "pixel_heads", "decoder_heads"):
            heads = getattr(self, name)
            if heads is not None and heads < 1:
                _refuse(f"model.{name}", heads, "1 or more heads")
        if self.keep_ratio is not None:
            _check_share("model.keep_ratio", self.keep_ratio)
        if self.reference_tokens not in (None, "after_block_2", "entry_of_block_1"):
            expected = '"after_block_2" or "entry_of_block_1"'
            _refuse("model.reference_tokens", self.reference_tokens, expected)
        if isinstance(self.classes, str):
            if self.classes != "youtube-vis-2021":
                expected = '"youtube-vis-2021" or a list of names'
                _refuse("model.classes", self.classes, expected)
        elif self.classes is not None and (
            not self.classes or len(set(self.classes)) < len(self.classes)
        ):
            _refuse("model.classes", list(self.classes), "one or more names, each once")


@dataclass(frozen=True)
class Budgets:
    """Tokens that run in each group of blocks, K1 >= K3 >= K6 >= K9 >= 1 (MODEL.md 2.4)."""

    blocks_1_2: int
    blocks_3_5: int
    blocks_6_8: int
    blocks_9_11: int


@dataclass(frozen=True)
class BudgetShares:
    """Shares of the N tokens that run in blocks 3-5, 6-8 and 9-11, each in (0, 1].

    Raises:
        RecipeError: a share is out of range.
    """

    blocks_3_5: float
    blocks_6_8: float
    blocks_9_11: float

    def __post_init__(self) -> None:
        for name in ("blocks_3_5", "blocks_6_8", "blocks_9_11"):
            _check_share(f"budgets.{name}", getattr(self, name))

    def tokens(self, num_tokens: int, keep_ratio: float) -> Budgets:
        """The budgets for `num_tokens` patch tokens: float products, truncated (MODEL.md 2.3, 2.4).

        Raises:
            RecipeError: a budget is 0, exceeds the one before it, or exceeds `MAX_BUDGET`.
        """
        previous_key, previous = "the number of tokens", num_tokens
        counts = []
        for key, share in (
            ("model.keep_ratio", keep_ratio),
            ("budgets.blocks_3_5", self.blocks_3_5),
            ("budgets.blocks_6_8", self.blocks_6_8),
            ("budgets.blocks_9_11", self.blocks_9_11),
        ):
            count = int(num_tokens * share)
            got = f"{key} = {share} of {num_tokens} tokens keeps {count}"
            if count < 1:
                raise RecipeError(f"{got}; expected 1 or more, so raise it")
            if count > previous:
                raise RecipeError(
                    f"{got}, more than the {previous} of {previous_key}; expected budgets that "
                    f"never grow from block to block, so lower {key}"
                )
            if count > MAX_BUDGET:
                raise RecipeError(
                    f"{got}; TensorRT's TopK takes at most {MAX_BUDGET}, so lower {key} or "
                    "input.size"
                )
            counts.append(count)
            previous_key, previous = key, count
        return Budgets(*counts)


@dataclass(frozen=True)
class ExportRecipe:
    """One exported bundle.

    Attributes:
        model: what the weights do not say.
        height, width: input in pixels, multiples of 32.
        batch: videos per call.
        budgets: fixed keep budgets; None for a dense model.
        slots: T, track queries that one call can carry.
        precision: numeric type of weights and activations.

    Raises:
        RecipeError: a value is out of range.
    """

    height: int
    width: int
    model: ModelSettings = field(default_factory=ModelSettings)
    batch: int = 1
    budgets: BudgetShares | None = None
    slots: int = 32
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not _MIN_SIDE <= side <= _MAX_SIDE or side % _STRIDE:
                expected = f"multiples of {_STRIDE} from {_MIN_SIDE} to {_MAX_SIDE}"
                _refuse("input.size", [self.height, self.width], expected)
        if not 1 <= self.batch <= 64:
            _refuse("input.batch", self.batch, "1 to 64")
        if not 1 <= self.slots <= 512:
            _refuse("tracks.slots", self.slots, "1 to 512")
        if self.precision in ("fp16", "bf16"):
            _refuse("export.precision", self.precision, '"fp32", the only one supported so far')
        if self.precision != "fp32":
            _refuse("export.precision", self.precision, '"fp32"')
        if self.budgets is not None and self.model.keep_ratio is not None:
            self.budgets.tokens(self.num_tokens, self.model.keep_ratio)

    @property
    def num_tokens(self) -> int:
        """N = H/16 * W/16 patch tokens."""
        return (self.height // 16) * (self.width // 16)


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
    "export": {"precision": "a string"},
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
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot read the recipe ({error.strerror}); expected a TOML file"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: not valid TOML: nested too deeply") from error
    try:
        return _build(document)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


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
            _refuse(table, entries, f"a table, [{table}]")
        values[table] = {key: _checked(table, key, value) for key, value in entries.items()}
    for dotted in _REQUIRED:
        table, key = dotted.split(".")
        if key not in values.get(table, {}) and (table in values or table == "input"):
            raise RecipeError(f"{dotted} is missing; expected {_KEYS[table][key]}")
    size = values["input"].pop("size")
    assert isinstance(size, tuple)
    fields = values["input"] | values.get("tracks", {}) | values.get("export", {})
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
        _refuse(f"{table}.{key}", value, wanted)
    return tuple(value) if isinstance(value, list) else value


def _unknown(key: str, known: Mapping[str, object], prefix: str = "") -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"expected {', '.join(known)}"
    return f"{prefix}{key} is not a key of a recipe; {hint}"


def _check_share(key: str, share: float) -> None:
    if not 0 < share <= 1:
        _refuse(key, share, "a number above 0 and at most 1")


def _refuse(key: str, got: object, expected: str) -> NoReturn:
    raise RecipeError(f"{key} = {got!r}; expected {expected}")

"""Engine recipes: how to build, in TOML files named after the hardware that they are for."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vpp_deploy.engines.architectures import is_architecture
from vpp_deploy.errors import RecipeError
from vpp_deploy.recipe_files import read_toml
from vpp_deploy.recipes import refuse

BACKENDS = ("tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16", "bf16")
MAX_FRAME_SIDE = 16384


@dataclass(frozen=True)
class EngineRecipe:
    """How engines are built. None: what the machine or the bundle suggests.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        precision: of the graphs, "fp32", "fp16" or "bf16".
        architectures: compute capabilities, as "8.6", to build for with TensorRT for RTX; the other
            one builds for the GPU that it runs on. Empty: this machine's, or the library's choice.
        workspace_mb: most scratch memory, in MiB: of one layer, with TensorRT for RTX of a whole
            stage; None: the library's limit.
        level: builder's optimisation level, 0 to 5; None: the library's.
        max_frame_size: (H, W) of the largest frames whose masks are made on the device.

    Raises:
        RecipeError: a value is out of range.
    """

    backend: str | None = None
    precision: str | None = None
    architectures: tuple[str, ...] = ()
    workspace_mb: int | None = None
    level: int | None = None
    max_frame_size: tuple[int, int] = (2160, 3840)

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("backend", self.backend, BACKENDS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value is not None and value not in choices:
                refuse(name, value, " or ".join(f'"{c}"' for c in choices))
        named = self.architectures
        if not all(map(is_architecture, named)) or len(set(named)) < len(named):
            refuse("architectures", list(named), 'compute capabilities, each once, as ["8.6"]')
        if self.workspace_mb is not None and not 1 <= self.workspace_mb <= 1 << 20:
            refuse("workspace_mb", self.workspace_mb, f"1 to {1 << 20}")
        if self.level is not None and not 0 <= self.level <= 5:
            refuse("level", self.level, "0 to 5")
        if not all(1 <= side <= MAX_FRAME_SIDE for side in self.max_frame_size):
            expected = f"height and width from 1 to {MAX_FRAME_SIDE}"
            refuse("max_frame_size", list(self.max_frame_size), expected)


_FORMS = {
    "backend": "a string",
    "precision": "a string",
    "architectures": "a list of strings",
    "workspace_mb": "a whole number",
    "level": "a whole number",
    "max_frame_size": "a list of two whole numbers",
}
assert _FORMS.keys() == {field.name for field in dataclasses.fields(EngineRecipe)}


def load_engine_recipe(path: Path) -> EngineRecipe:
    """Reads a recipe; `engines/` holds some.

    Raises:
        RecipeError: the file cannot be read, or a key is unknown, of another type or out of range.
    """
    try:
        values = {key: _checked(key, value) for key, value in read_toml(path).items()}
        return EngineRecipe(**values)  # type: ignore[arg-type]  # checked by the table of forms
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _checked(key: str, value: object) -> object:
    if key not in _FORMS:
        known = ", ".join(_FORMS)
        raise RecipeError(f"{key} is not a key of an engine recipe; expected {known}")
    form = _FORMS[key]
    match value:
        case str():
            fits = form == "a string"
        case bool():
            fits = False
        case int():
            fits = form == "a whole number"
        case [*items] if form == "a list of strings":
            fits = all(isinstance(item, str) for item in items)
        case [*items] if form == "a list of two whole numbers":
            fits = len(items) == 2 and all(type(item) is int for item in items)
        case _:
            fits = False
    if not fits:
        refuse(key, value, form)
    return tuple(value) if isinstance(value, list) else value

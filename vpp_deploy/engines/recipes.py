"""How engines are built: what a recipe in engines/ or the command line says."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vpp_deploy.errors import RecipeError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""What the backends of engines are called in Python."""

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class EngineRecipe:
    """One way to build engines. None leaves it to the command: see `vpp-deploy build-engine`.

    Attributes:
        backend: a key of `MODULES`.
        precision: one of `PRECISIONS`; None: the bundle's.
        architectures: compute capabilities, as "8.6", to build for ahead of time (TensorRT for RTX
            alone); empty: the GPU of this machine.
        workspace_mb: memory that a layer may use while it runs; None: all of the GPU's.
        level: how long the builder searches, 0 to 5; None: the library's default.
        max_frame_size: (height, width) of the largest frames whose masks can be made.

    Raises:
        RecipeError: a value is out of range.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    backend: str | None = None
    precision: str | None = None
    architectures: tuple[str, ...] = ()
    workspace_mb: int | None = None
    level: int | None = None
    max_frame_size: tuple[int, int] = (2160, 3840)

    def __post_init__(self) -> None:
        for name, choices in (("backend", tuple(MODULES)), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise RecipeError(f"{name} = {value!r}; expected {' or '.join(choices)}")
        for name, low, high in (("workspace_mb", 1, 1 << 20), ("level", 0, 5)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RecipeError(f"{name} = {value}; expected {low} to {high}")
        for architecture in self.architectures:
            major, dot, minor = architecture.partition(".")
            if not (dot and major.isdecimal() and minor.isdecimal()):
                raise RecipeError(
                    f"architectures has {architecture!r}; expected compute capabilities, as 8.6"
                )
        if not all(32 <= side <= 16384 for side in self.max_frame_size):
            raise RecipeError(f"max_frame_size = {self.max_frame_size}; expected 32 to 16384 each")


def load_engine_recipe(path: Path) -> EngineRecipe:
    """Reads a TOML file with the keys of `EngineRecipe`, strictly.

    Raises:
        RecipeError: naming the file and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is no recipe: {error}") from error
    try:
        # As JSON, where a list is what a tuple is written as; strict, so that "1" is no 1.
        return TypeAdapter(EngineRecipe).validate_json(
            json.dumps(document, default=str), strict=True
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path}: {key}: {first['msg']}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def parse_architectures(text: str) -> tuple[str, ...]:
    """Compute capabilities from "86,89,120": the last digit is the minor version.

    Raises:
        RecipeError: that is no such list.
    """
    parts = [part.strip().lower().removeprefix("sm") for part in text.split(",")]
    if not all(part.isdecimal() and 2 <= len(part) <= 3 for part in parts):
        raise RecipeError(f"{text!r} is no list of architectures; write them as 86,89,120")
    return tuple(f"{part[:-1]}.{part[-1]}" for part in dict.fromkeys(parts))

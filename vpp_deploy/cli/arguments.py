"""Argument types that several commands share."""

import re
from collections.abc import Sequence
from typing import Any

import typer

from vpp_deploy.errors import RecipeError
from vpp_deploy.recipes import ExportRecipe


def choice(names: Sequence[str], help_text: str) -> Any:
    """An option that takes one of `names`, or None."""

    def checked(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(names)}")
        return value

    return typer.Option(
        metavar=f"[{'|'.join(names)}]",
        callback=checked,
        autocompletion=lambda: list(names),
        help=help_text,
    )


def check_size(text: str | None) -> str | None:
    """A callback: `text` if `parse_size` takes it.

    Raises:
        typer.BadParameter: it does not.
    """
    if text is not None:
        parse_size(text)
    return text


def parse_size(text: str) -> tuple[int, int]:
    """`HxW` in pixels, as a recipe's input.size.

    Raises:
        typer.BadParameter: another form, or a side that no recipe may have.
    """
    height, width = parse_frame_size(text)
    try:
        ExportRecipe(height, width)
    except RecipeError as error:
        raise typer.BadParameter(f"{text}: {error}") from error
    return height, width


def parse_frame_size(text: str) -> tuple[int, int]:
    """`HxW` in pixels, of any sides.

    Raises:
        typer.BadParameter: another form.
    """
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write HEIGHTxWIDTH, as 544x960")
    return int(match[1]), int(match[2])

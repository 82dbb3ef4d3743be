"""Argument types that several commands share."""

import re

import typer


def parse_size(text: str) -> tuple[int, int]:
    """`HxW` in pixels.

    Raises:
        typer.BadParameter: another form, or a side that is no multiple of 32.
    """
    height, width = parse_frame_size(text)
    if height % 32 or width % 32 or not height or not width:
        raise typer.BadParameter(f"{text} must be multiples of 32, as 544x960")
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

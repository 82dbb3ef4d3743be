"""GPU architectures as compute capabilities: "8.6", which NVIDIA also writes as SM86."""

import re

from vpp_deploy.errors import RecipeError

RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT for RTX builds for where nothing is asked: all but those of its targets that need
asking (SM75 refuses float32 products, SM121 is not on its list of defaults)."""

_FORM = re.compile(r"[1-9]\d?\.\d")


def is_architecture(text: str) -> bool:
    """Whether `text` has the form "8.6"."""
    return _FORM.fullmatch(text) is not None


def parse_sm(text: str) -> tuple[str, ...]:
    """`86,89`, also written `sm86,sm89`, to ("8.6", "8.9").

    Raises:
        RecipeError: another form.
    """
    parts = [part.strip().lower().removeprefix("sm") for part in text.split(",")]
    found = tuple(f"{part[:-1]}.{part[-1:]}" for part in parts)
    if not all(map(is_architecture, found)) or len(set(found)) < len(found):
        raise RecipeError(
            f"--sm {text!r} names no architectures; write their numbers, each once, as 86,89"
        )
    return found


def sm_numbers(architectures: tuple[str, ...]) -> str:
    """The other way round: "86,89"."""
    return ",".join(a.replace(".", "") for a in architectures)

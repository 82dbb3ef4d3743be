"""What commands say, and how much of it: `-q` and `-v`, for every command alike.

stdout has what was asked for; what accompanies it (notes, progress, details) goes to stderr. With
`-q` neither has anything but errors and the JSON that was asked for: notes are in the files that a
command writes, too. With `-v` steps, FFmpeg's own messages, and where an error came from.
"""

import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, TextIO

import av.logging
import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from vpp_deploy.cli.signals import check_signals
from vpp_deploy.errors import VideoError, printable
from vpp_deploy.video.live_address import live_address


class _Verbosity(Enum):
    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


_FFMPEG = logging.getLogger("libav")  # PyAV's name for it

_verbosity = _Verbosity.NORMAL
_only_answers = False

_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more: details, and where errors come from.")
]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """The command with two options more, which say how much the functions below let through."""

    @functools.wraps(command)
    def verbose_command(*args: object, quiet: bool, verbose: bool, **options: object) -> None:
        if quiet and verbose:
            raise typer.BadParameter("--quiet and --verbose contradict each other; give one")
        _set(_Verbosity(verbose - quiet))
        command(*args, **options)

    options = {"quiet": _Quiet, "verbose": _Verbose}
    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in options.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    vars(verbose_command)["__signature__"] = signature.replace(parameters=parameters)
    verbose_command.__annotations__ = {**command.__annotations__, **options}
    return verbose_command


def _set(verbosity: _Verbosity) -> None:
    global _verbosity, _only_answers
    _verbosity, _only_answers = verbosity, False
    if is_verbose():
        _FFMPEG.handlers, _FFMPEG.propagate = [_FfmpegHandler(sys.stderr)], False
        av.logging.set_level(av.logging.WARNING)
    else:
        _FFMPEG.handlers = []
        av.logging.set_level(None)


def _without_secrets(url: re.Match[str]) -> str:
    try:
        address = live_address(url[0])
    except VideoError:
        address = None
    return "..." if address is None else address.shown


class _FfmpegHandler(logging.StreamHandler[TextIO]):
    """Prints FFmpeg's messages without what may be secret in a URL."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(f"{record.name.removeprefix('libav.')}: {record.getMessage()}")
        return re.sub(r"\w+://\S+", _without_secrets, text)


def is_verbose() -> bool:
    """Whether the command was given `-v`."""
    return _verbosity is _Verbosity.VERBOSE


def _is_quiet() -> bool:
    return _verbosity is _Verbosity.QUIET


def only_answers() -> None:
    """From now on stdout is for `answer` alone."""
    global _only_answers
    _only_answers = True


def answer(text: str) -> None:
    """What a machine is to read, on stdout, quiet or not."""
    print(text)


def say(text: str) -> None:
    """Lines on stdout, unless quiet."""
    if not (_is_quiet() or _only_answers):
        print(text)


def show(renderable: RenderableType) -> None:
    """A table or the like on stdout, unless quiet."""
    Console(quiet=_is_quiet() or _only_answers).print(renderable)


def note(text: str) -> None:
    """What is to be known of a result, as one line on stderr, unless quiet."""
    if not _is_quiet():
        typer.secho(f"note: {printable(text)}", err=True, fg="yellow")


def detail(text: str) -> None:
    """One line on stderr, where the command was given `-v`."""
    if is_verbose():
        typer.echo(printable(text), err=True)


def progress_console() -> Console:
    """For bars and spinners: on stderr, and silent when quiet."""
    return Console(stderr=True, quiet=_is_quiet())


@contextmanager
def telling(first: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the step that a long command is at; each step is also a place to stop at.

    Args:
        first: the first step.
    """
    with progress_console().status(escape(first)) as status:

        def tell(step: str) -> None:
            check_signals()
            status.update(escape(step))
            detail(step)

        yield tell

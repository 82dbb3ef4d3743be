"""`vpp-deploy`: commands, and how errors leave it.

Exit codes: 0 all is well, 1 the input or this machine does not allow what was asked (one line on
stderr says why), 2 wrong usage, 129 hung up, 130 interrupted, 143 terminated. Anything else is a
bug and keeps its traceback.
"""

import io
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, TextIO

import typer

from vpp_deploy import __version__
from vpp_deploy.cli.build_engine import build_engine
from vpp_deploy.cli.calibrate import calibrate
from vpp_deploy.cli.console import is_verbose, with_verbosity
from vpp_deploy.cli.doctor import doctor
from vpp_deploy.cli.evaluate import evaluate
from vpp_deploy.cli.export import export
from vpp_deploy.cli.inspect import inspect
from vpp_deploy.cli.profiling import profile
from vpp_deploy.cli.run import run
from vpp_deploy.cli.signals import check_signals, exit_on_signals
from vpp_deploy.cli.verify import verify
from vpp_deploy.errors import VppDeployError, printable

_MAX_MESSAGE = 1000

_EPILOG = (
    "Exit codes: 0 done; 1 the input or this machine does not allow it, one line on stderr says "
    "why; 2 wrong usage; 129 hung up; 130 interrupted; 143 terminated."
)

app = typer.Typer(
    help="Export Video Patch Pruning models and run them on video.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(with_verbosity(export))
app.command()(with_verbosity(build_engine))
app.command()(with_verbosity(inspect))
app.command()(with_verbosity(run))
app.command()(with_verbosity(calibrate))
app.command("eval")(with_verbosity(evaluate))
app.command()(with_verbosity(profile))
app.command()(with_verbosity(verify))
app.command()(with_verbosity(doctor))


def _show_version(asked: bool) -> None:
    if asked:
        print(f"vpp-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The program, once it is loaded."""
    exit_on_signals()
    # A daemon may start with these closed. The first file to be opened would take their place.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (VppDeployError, OSError) as error:
        check_signals()
        # An OSError is this machine's refusal: a full disk, no permission.
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        if is_verbose():
            traceback.print_exception(error)
        sys.exit(1)
    finally:
        _flush()


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _flush() -> None:
    """Writes out what stdout holds back: what fails later, as Python ends, ends in a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Who reads has left, as `head` does: no fault, but nobody has got it all.
        if not isinstance(error, BrokenPipeError):
            print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _one_line(message: str) -> str:
    shown = printable(message)
    return shown if len(shown) <= _MAX_MESSAGE else shown[:_MAX_MESSAGE] + " ..."

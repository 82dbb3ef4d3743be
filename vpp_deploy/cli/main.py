"""`vpp-deploy`: commands, and how errors leave it.

Exit codes: 0 all is well, 1 the input or this machine does not allow what was asked (one line on
stderr says why), 2 wrong usage, 130 interrupted, 143 terminated. Anything else is a bug and keeps
its traceback.
"""

import io
import sys
from typing import Annotated

import typer

from vpp_deploy import __version__
from vpp_deploy.cli.build_engine import build_engine
from vpp_deploy.cli.doctor import doctor
from vpp_deploy.cli.export import export
from vpp_deploy.cli.profiling import profile
from vpp_deploy.cli.run import run
from vpp_deploy.cli.signals import exit_on_sigterm
from vpp_deploy.cli.verify import verify
from vpp_deploy.errors import VppDeployError, printable

_MAX_MESSAGE = 1000

app = typer.Typer(
    help="Export Video Patch Pruning models and run them on video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(export)
app.command()(build_engine)
app.command()(run)
app.command()(profile)
app.command()(verify)
app.command()(doctor)


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
    """Entry point of the console script."""
    exit_on_sigterm()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (VppDeployError, OSError) as error:
        # An OSError is this machine's refusal: a full disk, a closed pipe, no permission.
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(1)


def _one_line(message: str) -> str:
    shown = printable(message)
    return shown if len(shown) <= _MAX_MESSAGE else shown[:_MAX_MESSAGE] + " ..."

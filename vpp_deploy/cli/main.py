"""`vpp-deploy`: commands, and how errors leave it.

Exit codes: 0 all is well, 1 the input or this machine does not allow what was asked (one line on
stderr says why), 2 wrong usage, 130 interrupted, 143 terminated. Anything else is a bug and keeps
its traceback.
"""

import signal
import sys
from typing import Annotated

import typer

from vpp_deploy import __version__
from vpp_deploy.cli.export import export
from vpp_deploy.cli.run import run
from vpp_deploy.errors import VppDeployError

_TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    help="Export Video Patch Pruning models and run them on video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(export)
app.command()(run)


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
    # As an exception, so that files are completed and folders that were written aside removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        app()
    except VppDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

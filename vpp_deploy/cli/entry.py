"""Where the program begins: a signal that comes while it loads ends it without a traceback."""

from vpp_deploy.cli.signals import check_signals, exit_on_signals


def main() -> None:
    """Entry point of the console script."""
    exit_on_signals()
    try:
        from vpp_deploy.cli.main import main as loaded
    except BaseException:
        check_signals()
        raise
    loaded()

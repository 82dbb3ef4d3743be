"""The command line as a process."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = [sys.executable, "-c", "from vpp_deploy.cli.entry import main; main()"]

ENVIRONMENT = {**os.environ, "COLUMNS": "200"}


def vpp(*arguments: object, cwd: Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def succeeds(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    result = vpp(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr
    return result


def fails(*arguments: object, cwd: Path) -> str:
    """The one line that a user sees, without `error: `."""
    result = vpp(*arguments, cwd=cwd)
    assert result.returncode == 1, (result.returncode, result.stderr[-3000:])
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def wait_for(condition: Callable[[], bool], timeout_s: float = 90) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True

"""`vpp-deploy doctor`: what this machine can run, and what is missing for the rest."""

import dataclasses
import json
from typing import Annotated

import typer

from vpp_deploy.cli.console import answer, note, progress_console, say
from vpp_deploy.errors import printable
from vpp_deploy.runtime.diagnosis import Diagnosis, diagnose


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show GPUs, driver and libraries, and for each backend whether it works here.

    Example: vpp-deploy doctor
    """
    with progress_console().status("looking around"):
        found = diagnose()
    if as_json:
        answer(json.dumps(dataclasses.asdict(found), indent=1))
        return
    _print(found)


def _print(found: Diagnosis) -> None:
    for gpu in found.gpus:
        say(
            f"GPU: {printable(gpu['name'])}, compute capability {gpu['architecture']}, "
            f"{gpu['memory_bytes'] / 1e9:.1f} GB"
        )
    if found.gpu_error is not None:
        say(f"GPU: none that works: {printable(found.gpu_error)}")
    say(f"driver: {found.driver or 'none found'}")
    say(f"ONNX Runtime's providers: {', '.join(found.providers) or 'none'}")
    say("libraries: " + ", ".join(f"{name} {v}" for name, v in found.libraries.items()))
    say("backends:")
    for backend in found.backends:
        state = "ready" if backend.missing is None else f"not ready: {printable(backend.missing)}"
        say(f"  {backend.name:18}{state}")
        if backend.install is not None:
            say(f"{'':20}to get it: {backend.install}")
    for text in found.notes:
        note(text)

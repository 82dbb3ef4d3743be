"""`vpp-deploy doctor`: what this machine can run, and what is missing for the rest."""

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console

from vpp_deploy.errors import printable
from vpp_deploy.runtime.diagnosis import Diagnosis, diagnose


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show GPUs, driver and libraries, and for each backend whether it works here.

    Example: vpp-deploy doctor
    """
    with Console(stderr=True).status("looking around"):
        found = diagnose()
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return
    _print(found)


def _print(found: Diagnosis) -> None:
    for gpu in found.gpus:
        print(
            f"GPU: {printable(gpu['name'])}, compute capability {gpu['architecture']}, "
            f"{gpu['memory_bytes'] / 1e9:.1f} GB"
        )
    if found.gpu_error is not None:
        print(f"GPU: none that works: {printable(found.gpu_error)}")
    print(f"driver: {found.driver or 'none found'}")
    print(f"ONNX Runtime's providers: {', '.join(found.providers) or 'none'}")
    print("libraries: " + ", ".join(f"{name} {v}" for name, v in found.libraries.items()))
    print("backends:")
    for backend in found.backends:
        state = "ready" if backend.missing is None else f"not ready: {printable(backend.missing)}"
        print(f"  {backend.name:18}{state}")
        if backend.install is not None:
            print(f"{'':20}to get it: {backend.install}")
    for note in found.notes:
        typer.secho(f"note: {note}", err=True, fg="yellow")

"""What this machine can run, and what is missing for the rest."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from vpp_deploy.runtime.probes import PROBES, run_probe
from vpp_deploy.specs import BACKENDS

_LIBRARIES = ("onnxruntime", "tensorrt", "torch", "cuda-", "nvidia-", "numpy")
"""Packages that matter start with one of these."""

_EXTRAS = {
    "onnxruntime": "cpu",
    "onnxruntime-cuda": "gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
_DISTRIBUTIONS = {"onnxruntime-cuda": "onnxruntime-gpu"}


@dataclass(frozen=True)
class BackendState:
    """Whether a backend works here.

    Attributes:
        name: one of `BACKENDS`.
        missing: why it does not; None: it is ready.
        install: command that may change that; None where no package would.
    """

    name: str
    missing: str | None
    install: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What is here.

    Attributes:
        driver: version of NVIDIA's driver; None: there is none, or it does not say.
        gpus: name, architecture (compute capability) and memory_bytes of each.
        gpu_error: why there is none.
        libraries: package to version.
        providers: of ONNX Runtime.
        backends: every one, in the order of `BACKENDS`.
        notes: what else a user should know.
    """

    driver: str | None
    gpus: tuple[dict[str, Any], ...]
    gpu_error: str | None
    libraries: dict[str, str]
    providers: tuple[str, ...]
    backends: tuple[BackendState, ...]
    notes: tuple[str, ...]


def diagnose(probe: Callable[[str], dict[str, Any]] = run_probe) -> Diagnosis:
    """Tries everything; takes seconds, and a minute where a library does not answer.

    Args:
        probe: finds out what `PROBES` names.
    """
    with ThreadPoolExecutor(len(PROBES)) as pool:
        found = dict(zip(PROBES, pool.map(probe, PROBES), strict=True))
    libraries = _installed()
    notes = []
    if {"onnxruntime", "onnxruntime-gpu"} <= libraries.keys():
        notes.append(
            "onnxruntime and onnxruntime-gpu are both installed, and the one hides the other: "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then install vpp-deploy[cpu] or "
            "vpp-deploy[gpu]"
        )
    builds = "tensorrt-rtx" in libraries and not found["tensorrt-rtx"].get("broken")
    if builds and not found["gpu"].get("gpus"):
        notes.append(
            "tensorrt-rtx builds engines here for other machines: `vpp-deploy build-engine "
            "--backend tensorrt-rtx --sm 86,89`"
        )
    return Diagnosis(
        driver=found["gpu"].get("driver"),
        gpus=tuple(found["gpu"].get("gpus", ())),
        gpu_error=found["gpu"].get("error"),
        libraries=libraries,
        providers=tuple(found["onnxruntime"].get("providers", ())),
        backends=tuple(_state(name, found, libraries) for name in BACKENDS),
        notes=tuple(notes),
    )


def _state(name: str, found: dict[str, dict[str, Any]], libraries: dict[str, str]) -> BackendState:
    missing = found[name].get("error")
    if missing is None:
        return BackendState(name, None, None)
    package = _DISTRIBUTIONS.get(name, name)
    on_gpu, installed = name != "onnxruntime", package in libraries
    broken = installed and found[name].get("broken", False)
    reasons = [] if installed else [f"{package} is not installed"]
    if on_gpu and not broken and not found["gpu"].get("gpus"):
        reasons.append("there is no GPU that works")
        if installed:
            return BackendState(name, reasons[0], None)
    install = f'pip install "vpp-deploy[{_EXTRAS[name]}]"'
    if name == "onnxruntime-cuda" and "onnxruntime" in libraries:
        install = f"pip uninstall -y onnxruntime onnxruntime-gpu; {install}"
    return BackendState(name, ", and ".join(reasons) or missing, install)


def _installed() -> dict[str, str]:
    """Packages that matter, by name."""
    versions = {
        distribution.metadata["Name"].lower().replace("_", "-"): distribution.version
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }
    return {n: v for n, v in sorted(versions.items()) if n.startswith(_LIBRARIES)}

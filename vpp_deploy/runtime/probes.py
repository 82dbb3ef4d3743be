"""What each library can do on this machine, tried in a process of its own.

A library that finds no driver, or one that is too old, may crash or wait for ever; it then takes
the process with it that asked. `run_probe` starts that process, which prints one line of JSON.
"""

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.backends import MODULES, import_tensorrt
from vpp_deploy.runtime.cuda import list_gpus
from vpp_deploy.runtime.onnx_runner import import_onnxruntime
from vpp_deploy.runtime.onnx_stages import PROVIDER

TIMEOUT_S = 60.0

_CONVOLUTION = base64.b64decode(
    "CAk6awoPCgF4CgF3EgF5IgRDb252EgFnWhsKAXgSFgoUCAESEAoCCAEKAggBCgIIBAoCCARaGwoBdxIWChQIARIQCgII"
    "AQoCCAEKAggDCgIIA2IbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAIKAggCQgQKABAU"
)
"""An ONNX graph: y = Conv(x, w), 4x4 by 3x3. It needs cuDNN."""


def run_probe(name: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What a probe found out, or {"error": why it did not.

    Args:
        name: a key of `PROBES`.
        timeout_s: it is given up after that.
    """
    command = [sys.executable, "-P", "-m", __name__, name]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        # One that waits for a broken driver does not even end when it is killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=2)
        return {"error": f"no answer within {timeout_s:g} s"}
    return _read(output, process.returncode)


def _read(output: str, code: int) -> dict[str, Any]:
    # A crash while the interpreter ends, after the answer, is no answer of a sound library either.
    if code < 0:
        return {"error": f"crashes when it is used (signal {-code})"}
    try:
        found = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        found = None
    if code != 0 or not isinstance(found, dict):
        return {"error": f"fails when it is used (exit code {code})"}
    return found


def _gpu() -> dict[str, Any]:
    found: dict[str, Any] = {"driver": _driver()}
    try:
        gpus = list_gpus()
    except BackendError as error:
        return {**found, "gpus": [], "error": str(error)}
    return {
        **found,
        "gpus": [
            {"name": g.name, "architecture": g.architecture, "memory_bytes": g.memory_bytes}
            for g in gpus
        ],
    }


def _driver() -> str | None:
    """Version of the driver, by NVIDIA's management library."""
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # not there, or there and of no use: the GPUs' own probe says why
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


def _onnxruntime() -> dict[str, Any]:
    ort = import_onnxruntime()
    return {"version": ort.__version__, "providers": ort.get_available_providers()}


def _onnxruntime_cuda() -> dict[str, Any]:
    """Runs a convolution on the GPU: what CUDA's and cuDNN's libraries lack shows then."""
    import numpy as np

    ort = import_onnxruntime("gpu")
    if PROVIDER not in ort.get_available_providers():
        raise BackendError("this ONNX Runtime has no CUDA")
    list_gpus()
    ort.preload_dlls(directory="")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(_CONVOLUTION, options, providers=[PROVIDER])
    ones = {"x": np.ones((1, 1, 4, 4), np.float32), "w": np.ones((1, 1, 3, 3), np.float32)}
    (result,) = session.run(None, ones)
    if not (result == 9).all():
        raise BackendError("ONNX Runtime computes a convolution wrong on this GPU")
    return {"version": ort.__version__}


def _tensorrt(backend: str) -> dict[str, Any]:
    """Makes a runtime, on a machine with a GPU: without one, classic TensorRT crashes."""
    try:
        trt = import_tensorrt(backend)
    except BackendError as error:
        return {"error": str(error), "broken": True}
    list_gpus()
    if trt.Runtime(trt.Logger(trt.Logger.ERROR)) is None:
        raise BackendError(f"{MODULES[backend]} makes no runtime")
    return {"version": trt.__version__}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "gpu": _gpu,
    "onnxruntime": _onnxruntime,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "tensorrt-rtx": lambda: _tensorrt("tensorrt-rtx"),
}
"""By name: of a backend, or "gpu"."""


def main() -> None:
    """Runs the probe that the command line names."""
    try:
        found = PROBES[sys.argv[1]]()
    except Exception as error:  # whatever a library raises is what it has to say
        found = {"error": " ".join(str(error).split()) or type(error).__name__}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

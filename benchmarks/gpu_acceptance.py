"""Whether TensorRT for RTX accepts this GPU at all, asked where a crash takes nothing with it.

    python -m benchmarks.gpu_acceptance

A network of one addition is built for this GPU, and ahead of time for the architectures that the
library builds for by default; each engine is loaded, run and its result compared. Every step prints
a line of JSON, so the last line says how far it came. Classic TensorRT can be asked, too.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from vpp_deploy.engines.architectures import RTX_DEFAULT
from vpp_deploy.engines.watching import new_log, reason
from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.backends import MODULES, import_tensorrt
from vpp_deploy.runtime.cuda import CudaDevice

TIMEOUT_S = 120.0
_SIZE = 4


def ask(backend: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What came of it: `accepted`, `answer` in one line, and the `steps` that were taken.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".
        timeout_s: it is given up after that.
    """
    command = [sys.executable, "-m", __name__, backend]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout_s
        )
        output, end = done.stdout, f"ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        partial = error.stdout or b""
        output = partial.decode(errors="replace") if isinstance(partial, bytes) else partial
        end = f"gave no answer within {timeout_s:g} s"
    steps = [json.loads(line) for line in output.splitlines() if line.startswith('{"step"')]
    if not steps or steps[-1]["step"] != "ended":
        last = steps[-1]["step"] if steps else "the start"
        return {"accepted": False, "answer": f"{end} after: {last}", "steps": steps}
    accepted = any(step["step"].endswith("compared") and step["ok"] for step in steps)
    failed = [
        step["said"] if step["step"] == "ended" else f"{step['step']}: {step['said']}"
        for step in steps
        if not step["ok"]
    ]
    answer = "; ".join(failed) or "built, loaded, run and compared"
    return {"accepted": accepted, "answer": answer, "steps": steps}


def _tell(step: str, said: str = "", *, ok: bool = True) -> None:
    print(json.dumps({"step": step, "ok": ok, "said": said}), flush=True)


def _main(backend: str) -> None:
    try:
        device = CudaDevice()
        trt = import_tensorrt(backend)
    except BackendError as error:
        _tell("ended", str(error), ok=False)
        return
    _tell(f"{MODULES[backend]} {trt.__version__} imported on {device.name}", device.architecture)
    targets: dict[str, tuple[str, ...]] = {"for this GPU": ()}
    if hasattr(trt, "ComputeCapability"):
        targets["ahead of time"] = RTX_DEFAULT
    for how, architectures in targets.items():
        try:
            for step in _tried(trt, device, architectures):
                _tell(f"{how}, {step}")
        except Exception as error:  # whatever the library raises is its answer
            _tell(f"{how}, refused", " ".join(str(error).split()), ok=False)
    _tell("ended")


def _tried(trt: Any, device: CudaDevice, architectures: tuple[str, ...]) -> Iterator[str]:
    log = new_log(trt)
    data = _addition(trt, log, architectures)
    yield "built"
    engine = trt.Runtime(log).deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(f"the engine is not loaded: {reason(log)}")
    yield "loaded"
    context = engine.create_execution_context()
    if context is None:
        raise BackendError(f"the engine makes no context: {reason(log)}")
    host = {name: device.allocate_host((_SIZE,), "float32") for name in ("x", "y")}
    host["x"][:], host["y"][:] = np.arange(_SIZE), -1
    memory = {name: device.allocate(array.nbytes) for name, array in host.items()}
    device.copy_to_device(memory["x"].pointer, host["x"])
    for name, place in memory.items():
        if not context.set_tensor_address(name, place.pointer):
            raise BackendError(f"a place is refused: {reason(log)}")
    if not context.execute_async_v3(device.stream):
        raise BackendError(f"the engine is not run: {reason(log)}")
    device.copy_to_host(host["y"], memory["y"].pointer)
    device.synchronize()
    yield "run"
    if not np.array_equal(host["y"], 2 * np.arange(_SIZE)):
        raise BackendError(f"the engine adds wrong: {host['y'].tolist()}")
    yield "compared"


def _addition(trt: Any, log: Any, architectures: tuple[str, ...]) -> bytes:
    """An engine for y = x + x; no architectures: for this machine's GPU."""
    builder = trt.Builder(log)
    flags = 0
    if trt.__version__.startswith("10."):
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    x = network.add_input("x", trt.float32, (_SIZE,))
    y = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    if hasattr(trt, "ComputeCapability"):
        names = [f"SM{a.replace('.', '')}" for a in architectures] or ["CURRENT"]
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise BackendError(f"the engine is not built: {reason(log)}")
    return bytes(data)


if __name__ == "__main__":
    _main(sys.argv[1] if len(sys.argv) > 1 else "tensorrt-rtx")

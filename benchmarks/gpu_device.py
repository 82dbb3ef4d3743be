"""What figures were taken on, and the most that it can do: measured rates, not a data sheet's."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import torch

from benchmarks import environment
from benchmarks.gpu_torch import new_event
from vpp_deploy.manifests import Manifest, StageOperations
from vpp_deploy.runtime.tensors import host_dtype
from vpp_deploy.specs import StageSpec

_LIBRARIES = (
    "torch",
    "triton",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "onnx",
    "numpy",
)
_REPEATS, _WARM_UPS = 10, 3


@dataclass(frozen=True)
class Peaks:
    """Measured rates.

    Attributes:
        fp16_flops: operations a second of a large matrix product in float16; a multiply-accumulate
            is two.
        fp32_flops: the same in float32, without TF32.
        bytes_per_s: of a large copy on the device, bytes read and bytes written.
    """

    fp16_flops: float
    fp32_flops: float
    bytes_per_s: float

    def floor_ms(
        self, stage: StageSpec, operations: StageOperations, num_bytes: int
    ) -> tuple[float, float]:
        """What a stage takes at least: for its products, and for its memory traffic.

        A stage that hands over anything in float16 is taken to compute in it, islands and all.
        """
        half = any(tensor.dtype == "float16" for tensor in (*stage.inputs, *stage.outputs))
        rate = self.fp16_flops if half else self.fp32_flops
        return 2 * operations.macs / rate * 1e3, num_bytes / self.bytes_per_s * 1e3


def use_exact_float32() -> None:
    """No TF32: fp32 rows are what fp16 is compared with."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def measure_peaks(device: torch.device) -> Peaks:
    """Times matrix products and copies, on random numbers: zeros would be faster.

    On a CPU they are small, and a test of this code rather than a figure.
    """
    large = device.type == "cuda"
    side, num_bytes = (8192, 1 << 30) if large else (256, 1 << 24)

    def product_flops(dtype: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        return 2 * side**3 / _median_s(device, lambda: a @ b)

    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * num_bytes / _median_s(device, lambda: target.copy_(source))
    return Peaks(product_flops(torch.float16), product_flops(torch.float32), copied)


def _median_s(device: torch.device, call: Callable[[], Any]) -> float:
    times: list[float] = []
    for _ in range(_WARM_UPS + _REPEATS):
        if device.type == "cuda":
            start, end = new_event(), new_event()
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
    return statistics.median(times[_WARM_UPS:])


def stage_bytes(
    manifest: Manifest, stage: StageSpec, graph_bytes: int, frame_size: tuple[int, int]
) -> int:
    """Memory traffic that a stage cannot avoid: weights and inputs read, outputs written.

    Args:
        manifest: of the bundle.
        stage: of its pipeline.
        graph_bytes: size of its file, which is weights but for a few kB.
        frame_size: (H, W), for masks.
    """
    rows, groups = frame_size[0], -(-frame_size[1] // 8)
    varying = {
        "kept_1_2": [manifest.budgets[0] if manifest.budgets else 0],
        "row_weights": [rows],
        "column_weights": [groups],
        "mask_bits": [rows, groups],
    }
    total = graph_bytes
    for tensor in (*stage.inputs, *stage.outputs):
        open_sizes = iter(varying.get(tensor.name, []))
        shape = [next(open_sizes) if size == -1 else size for size in tensor.shape]
        total += math.prod(shape) * host_dtype(tensor.dtype).itemsize
    return total


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, its libraries, and the GPU with its clocks and its power limit at this moment.

    What NVIDIA's management library does not tell is left out, with the reason under "nvml".
    """
    found: dict[str, Any] = {**environment.describe(), **_versions()}
    found["device"] = str(device)
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    found |= {
        "GPU": properties.name,
        "architecture": f"{properties.major}.{properties.minor}",
        "GPU memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "multiprocessors": properties.multi_processor_count,
        "CUDA of PyTorch": torch.version.cuda,
    }
    return {**found, **_management()}


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {name: installed[name] for name in _LIBRARIES if name in installed}


def _management() -> dict[str, Any]:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
    except Exception as error:  # not installed, or no driver: its errors have no base of ours
        return {"nvml": f"not available: {error}"}
    sm, memory = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM
    questions: dict[str, Callable[[], Any]] = {
        "driver": lambda: nvml.nvmlSystemGetDriverVersion(),
        "SM clock, MHz": lambda: nvml.nvmlDeviceGetClockInfo(handle, sm),
        "SM clock at most, MHz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, sm),
        "memory clock, MHz": lambda: nvml.nvmlDeviceGetClockInfo(handle, memory),
        "power limit, W": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        "power, W": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "temperature, C": lambda: nvml.nvmlDeviceGetTemperature(handle, 0),
    }
    answers: dict[str, Any] = {}
    for label, ask in questions.items():
        try:
            answer = ask()
        except nvml.NVMLError as error:
            answer = f"not told: {error}"
        answers[label] = answer.decode() if isinstance(answer, bytes) else answer
    return answers

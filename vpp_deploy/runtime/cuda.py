"""NVIDIA GPUs, through NVIDIA's own `cuda.bindings`: what there is, and one as a `Device`.

`cuda.bindings.runtime` brings CUDA's runtime along and finds the driver by itself: on a machine
without one it reports an error and does not crash.
"""

import ctypes
import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.tensors import Shape, host_dtype


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: as the driver calls it.
        architecture: compute capability, as "8.6".
        memory_bytes: all of its memory.
    """

    name: str
    architecture: str
    memory_bytes: int


def import_cuda() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(
            "NVIDIA's cuda-bindings is not installed; install vpp-deploy[gpu], "
            "vpp-deploy[tensorrt] or vpp-deploy[tensorrt-rtx]"
        ) from error


def list_gpus() -> list[Gpu]:
    """The GPUs that CUDA can use, in its order: one at least.

    Raises:
        BackendError: CUDA's Python package, the driver or a GPU is missing.
    """
    cuda = import_cuda()
    if _checked(cuda, "reading the driver's version", cuda.cudaDriverGetVersion()) == 0:
        raise BackendError(
            "this machine has no NVIDIA driver; install it, or run a bundle for the CPU, which "
            "needs none"
        )
    count = _checked(cuda, "looking for GPUs", cuda.cudaGetDeviceCount())
    if count == 0:
        raise BackendError("this machine has an NVIDIA driver, but no GPU that CUDA may use")
    return [_gpu(cuda, index) for index in range(count)]


def _gpu(cuda: Any, index: int) -> Gpu:
    properties = _checked(cuda, "asking a GPU", cuda.cudaGetDeviceProperties(index))
    name = properties.name
    return Gpu(
        name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        f"{properties.major}.{properties.minor}",
        int(properties.totalGlobalMem),
    )


def _checked(cuda: Any, what: str, result: tuple[Any, ...]) -> Any:
    """What a call returned beside its status.

    Raises:
        BackendError: the status is no success.
    """
    status, *values = result
    if status != cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"CUDA fails {what}: {status.name}")
    return values[0] if values else None


class CudaDevice:
    """A `Device`: the first GPU, with a stream of its own.

    Attributes:
        name: of the GPU.
        architecture: its compute capability, as "8.6".
        stream: its handle, for libraries that enqueue on it.
    """

    def __init__(self) -> None:
        """Takes the GPU into use.

        Raises:
            BackendError: CUDA's Python package, the driver or a GPU is missing, or CUDA fails.
        """
        gpu = list_gpus()[0]
        self.name = gpu.name
        self.architecture = gpu.architecture
        self._cuda = import_cuda()
        self._call("taking the GPU", self._cuda.cudaSetDevice(0))
        flags = self._cuda.cudaStreamNonBlocking
        self._stream = self._call("making a stream", self._cuda.cudaStreamCreateWithFlags(flags))
        self.stream = int(self._stream)

    def allocate(self, num_bytes: int) -> "_Memory":
        """As `Device` says."""
        pointer = int(self._call(f"allocating {num_bytes} B", self._cuda.cudaMalloc(num_bytes)))
        memory = _Memory(pointer)
        weakref.finalize(memory, self._cuda.cudaFree, pointer).atexit = False
        self._call(
            "clearing memory", self._cuda.cudaMemsetAsync(pointer, 0, num_bytes, self._stream)
        )
        return memory

    def allocate_host(self, shape: Shape, dtype: str) -> NDArray[Any]:
        """As `Device` says: pinned."""
        num_bytes = max(math.prod(shape) * host_dtype(dtype).itemsize, 1)
        result = self._cuda.cudaHostAlloc(num_bytes, self._cuda.cudaHostAllocDefault)
        pointer = int(self._call(f"pinning {num_bytes} B of the host", result))
        memory = (ctypes.c_uint8 * num_bytes).from_address(pointer)
        # The array keeps `memory`, and so do its views: the last one gives the memory back.
        weakref.finalize(memory, self._cuda.cudaFreeHost, pointer).atexit = False
        array: NDArray[Any] = np.ndarray(shape, host_dtype(dtype), memoryview(memory))
        array[...] = 0
        return array

    def copy_to_device(self, pointer: int, source: NDArray[Any]) -> None:
        """As `Device` says."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(pointer, source.ctypes.data, source.nbytes, kind)

    def copy_to_host(self, target: NDArray[Any], pointer: int) -> None:
        """As `Device` says."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(target.ctypes.data, pointer, target.nbytes, kind)

    def synchronize(self) -> None:
        """As `Device` says."""
        self._call("in its work", self._cuda.cudaStreamSynchronize(self._stream))

    def capture(self, enqueue: Callable[[], None]) -> "_Graph":
        """As `Device` says."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        # Memory that is found to be garbage meanwhile would be given back, which a capture forbids.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._captured(enqueue, mode)
        finally:
            if collecting:
                gc.enable()

    def _captured(self, enqueue: Callable[[], None], mode: Any) -> "_Graph":
        cuda = self._cuda
        self._call("beginning a capture", cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        except BaseException:
            # The capture must end; what it has to say of itself is the consequence of that error.
            status, unfinished = cuda.cudaStreamEndCapture(self._stream)
            if status == cuda.cudaError_t.cudaSuccess:
                cuda.cudaGraphDestroy(unfinished)
            raise
        graph = self._call("ending a capture", cuda.cudaStreamEndCapture(self._stream))
        try:
            made = self._call("making a graph", cuda.cudaGraphInstantiate(graph, 0))
        finally:
            self._call("letting a capture go", cuda.cudaGraphDestroy(graph))
        return _Graph(self, made)

    def event(self) -> "_Event":
        """As `Device` says."""
        return _Event(self, self._call("making an event", self._cuda.cudaEventCreate()))

    def _copy(self, target: int, source: int, num_bytes: int, kind: Any) -> None:
        result = self._cuda.cudaMemcpyAsync(target, source, num_bytes, kind, self._stream)
        self._call("copying", result)

    def _call(self, what: str, result: tuple[Any, ...]) -> Any:
        return _checked(self._cuda, what, result)


@dataclass(eq=False)
class _Memory:
    pointer: int


class _Graph:
    def __init__(self, device: CudaDevice, made: Any) -> None:
        self._device = device
        self._made = made
        weakref.finalize(self, device._cuda.cudaGraphExecDestroy, made).atexit = False

    def launch(self) -> None:
        device = self._device
        result = device._cuda.cudaGraphLaunch(self._made, device._stream)
        device._call("launching a graph", result)


class _Event:
    def __init__(self, device: CudaDevice, made: Any) -> None:
        self._device = device
        self._made = made
        weakref.finalize(self, device._cuda.cudaEventDestroy, made).atexit = False

    def record(self) -> None:
        device = self._device
        result = device._cuda.cudaEventRecord(self._made, device._stream)
        device._call("recording an event", result)

    def ms_since(self, earlier: Any) -> float:
        device = self._device
        result = device._cuda.cudaEventElapsedTime(earlier._made, self._made)
        return float(device._call("timing", result))

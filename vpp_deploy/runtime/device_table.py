"""A pipeline's tensors in a device's memory, and their crossings to and from the host."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.device import Device, DeviceMemory, DeviceTensor
from vpp_deploy.runtime.tensors import Shape
from vpp_deploy.specs import PipelineSpec, StageSpec

_READ_ANYWAY = ("class_logits", "queries")
"""The session reads these after each frame, whoever else does."""


class DeviceTable:
    """Every tensor by its name, in a place of its own; the state in two, which take turns."""

    def __init__(self, device: Device, spec: PipelineSpec, shapes: Mapping[str, Shape]) -> None:
        """Allocates everything that a frame needs.

        Args:
            device: for the memory.
            spec: of the pipeline.
            shapes: of every tensor, with no size left open.
        """
        self._device = device
        self._dtypes = {name: spec.tensor(name).dtype for name in shapes}
        self._pairs = {edge.input: edge.output for edge in spec.state}
        self._pairs |= {edge.output: edge.input for edge in spec.state}
        self._memory: dict[str, DeviceMemory] = {}
        self._tensors: dict[str, DeviceTensor] = {}
        self._results = results(spec)
        self._staging: dict[str, NDArray[Any]] = {}
        self._host: dict[str, NDArray[Any]] = {}
        self._in_flight: set[str] = set()
        self._fresh: set[str] = set()
        self._lost: set[str] = set()
        self._busy = False
        for name, shape in shapes.items():
            self.place(name, shape)
        produced = {tensor.name for stage in spec.stages for tensor in stage.outputs}
        for name in shapes.keys() - produced - self._pairs.keys():
            self._staging_of(name)

    def place(self, name: str, shape: Shape) -> None:
        """Gives the tensor another place, of `shape`, all zero."""
        if self._busy:
            self.synchronize()
        tensor = DeviceTensor(0, self._dtypes[name], shape)
        memory = self._device.allocate(max(tensor.num_bytes, 1))
        self._memory[name] = memory
        self._tensors[name] = DeviceTensor(memory.pointer, tensor.dtype, shape)
        self._staging.pop(name, None)
        self._fresh.discard(name)
        if name in self._results:
            self._host[name] = self._device.allocate_host(shape, tensor.dtype)
        else:
            self._host.pop(name, None)

    def tensor(self, name: str, parity: int) -> DeviceTensor:
        """Where the tensor lies in frames of this parity: the two ends of an edge take turns."""
        return self._tensors[self._pairs.get(name, name) if parity else name]

    def upload(self, name: str, parity: int, value: NDArray[Any]) -> None:
        """Enqueues the copy of `value` into the tensor; the array may change at once.

        Raises:
            ValueError: it has another shape.
        """
        tensor = self.tensor(name, parity)
        if tensor.shape != value.shape:
            raise ValueError(f"{name} takes shape {tensor.shape}, got {value.shape}")
        if name in self._in_flight:
            self.synchronize()
        staging = self._staging_of(name)
        np.copyto(staging, value, casting="no")
        self._device.copy_to_device(tensor.pointer, staging)
        self._in_flight.add(name)
        self._fresh.discard(name)
        self._lost.discard(name)
        self._busy = True

    def enqueue_results(self, stage: StageSpec, parity: int) -> None:
        """Enqueues the copies of the results that `stage` gives."""
        for spec in stage.outputs:
            if spec.name in self._results:
                pointer = self.tensor(spec.name, parity).pointer
                self._device.copy_to_host(self._host[spec.name], pointer)

    @contextmanager
    def writing(self, stages: Iterable[StageSpec]) -> Iterator[None]:
        """Within it, these stages and copies of their results are enqueued.

        If one is refused, what lies in the place of their outputs is an earlier frame's: nobody
        gets it.
        """
        outputs = {tensor.name for stage in stages for tensor in stage.outputs}
        self._lost |= outputs
        self._busy = True
        yield
        self._lost -= outputs
        self._fresh |= outputs & self._results

    def download(self, name: str, parity: int) -> NDArray[Any]:
        """The tensor on the host: a result is there already, anything else is copied now.

        Raises:
            BackendError: the stage that gives it was refused.
        """
        if name in self._lost:
            raise BackendError(f"{name} is not there: the stage that gives it was refused")
        if name not in self._fresh:
            tensor = self.tensor(name, parity)
            if name not in self._host:
                self._host[name] = self._device.allocate_host(tensor.shape, tensor.dtype)
            self._device.copy_to_host(self._host[name], tensor.pointer)
            self._busy = True
        if self._busy:
            self.synchronize()
        return self._host[name]

    def synchronize(self) -> None:
        """Waits for the device; what was uploaded has arrived, and results are on the host."""
        self._device.synchronize()
        self._busy = False
        self._in_flight.clear()

    def _staging_of(self, name: str) -> NDArray[Any]:
        if name not in self._staging:
            tensor = self._tensors[name]
            self._staging[name] = self._device.allocate_host(tensor.shape, tensor.dtype)
        return self._staging[name]


def results(spec: PipelineSpec) -> frozenset[str]:
    """Outputs that leave the device with every frame: nothing on it takes them further."""
    consumed = {tensor.name for stage in spec.stages for tensor in stage.inputs}
    consumed |= {edge.output for edge in spec.state}
    produced = {tensor.name for stage in spec.stages for tensor in stage.outputs}
    return frozenset((produced - consumed) | (produced & set(_READ_ANYWAY)))

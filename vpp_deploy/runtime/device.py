"""What a pipeline needs of a device, and of whoever computes its stages there.

`DeviceRunner` knows a device by these protocols alone: `cuda.py` is the real one, and everything
that the runner does can be tried on a machine without a GPU over memory of the host.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from vpp_deploy.runtime.tensors import Shape, host_dtype


@dataclass(frozen=True)
class DeviceTensor:
    """A place in a device's memory, and what lies there."""

    pointer: int
    dtype: str
    shape: Shape

    @property
    def num_bytes(self) -> int:
        """Size of its values."""
        return math.prod(self.shape) * host_dtype(self.dtype).itemsize


class DeviceMemory(Protocol):
    """Memory of the device; it is given back when nobody refers to this object any more."""

    @property
    def pointer(self) -> int:
        """Its address, a multiple of 256."""
        ...


class Graph(Protocol):
    """What was enqueued while it was captured, as one."""

    def launch(self) -> None:
        """Enqueues all of it."""
        ...


class Event(Protocol):
    """A point in the stream of work."""

    def record(self) -> None:
        """Takes the place behind everything that is enqueued by now."""
        ...

    def ms_since(self, earlier: "Event") -> float:
        """Milliseconds that the device took from `earlier` on; both have been passed."""
        ...


class Device(Protocol):
    """One device with one stream of work, in which everything happens in the order given.

    Every method raises `BackendError` where the device refuses.
    """

    name: str
    """For people to read."""

    stream: int
    """The stream's handle, for libraries that enqueue on it."""

    def allocate(self, num_bytes: int) -> DeviceMemory:
        """New memory on the device, all zero."""
        ...

    def allocate_host(self, shape: Shape, dtype: str) -> NDArray[Any]:
        """A host array that the device can copy from and to while the host goes on."""
        ...

    def copy_to_device(self, pointer: int, source: NDArray[Any]) -> None:
        """Enqueues a copy from an array of `allocate_host`."""
        ...

    def copy_to_host(self, target: NDArray[Any], pointer: int) -> None:
        """Enqueues a copy to an array of `allocate_host`."""
        ...

    def synchronize(self) -> None:
        """Waits until everything that is enqueued has been done."""
        ...

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What `enqueue` enqueues, without doing it. What it raises is raised: no graph then."""
        ...

    def event(self) -> Event:
        """One for this device's stream."""
        ...


class BoundStage(Protocol):
    """A stage with a place in memory for each of its tensors."""

    @property
    def capturable(self) -> bool:
        """Whether what it enqueues may be captured into a graph, once it has been enqueued."""
        ...

    def enqueue(self) -> None:
        """Enqueues the stage.

        Raises:
            BackendError: it is refused.
        """
        ...

    def release(self) -> None:
        """Gives back what belongs to these places; called when nothing of it is enqueued."""
        ...


class StageExecutor(Protocol):
    """Who computes a stage on a device."""

    def output_shapes(self, inputs: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Sizes of the outputs for inputs of these sizes.

        Raises:
            BackendError: it does not take such inputs.
        """
        ...

    def bind(self, tensors: Mapping[str, DeviceTensor], *, cold: bool) -> BoundStage:
        """The stage over these inputs and outputs.

        Args:
            tensors: by name. Their memory stays where it is until `release`.
            cold: every token is kept, as on a first frame.

        Raises:
            BackendError: it does not take such tensors.
        """
        ...

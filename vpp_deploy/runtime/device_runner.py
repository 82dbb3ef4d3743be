"""Runs a pipeline on a device: a frame up, results down, and everything between stays there.

`run` takes notes. The notes of a frame are carried out together, when something is asked of its
outcome: enqueued stage by stage at first, and from the third frame of its kind on as one captured
graph. Graphs hold addresses, so there is one for each parity of the state's two buffers; frames
that run other stages, or run them otherwise (a first frame, streams that start at different
times), are always enqueued stage by stage.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from vpp_deploy.runtime.device import Device, Graph, StageExecutor
from vpp_deploy.runtime.device_bindings import StageBindings, all_shapes
from vpp_deploy.runtime.device_table import DeviceTable
from vpp_deploy.runtime.tensors import Shape, fits
from vpp_deploy.specs import PipelineSpec

_WARM_UP_FRAMES = 5
"""A first frame; then, for each parity, one that is enqueued and one that is captured."""

_Call = tuple[str, bool]
"""A stage's name, and whether it is cold."""


class DeviceRunner:
    """A `PipelineRunner` whose table lies in the memory of a device.

    In mid-video a frame allocates nothing and waits for the device once, at the first `download`.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        device: Device,
        executors: Mapping[str, StageExecutor],
        initial: Mapping[str, NDArray[Any]],
        *,
        timed: bool = False,
    ) -> None:
        """Allocates and binds everything, and steps a few frames to warm up.

        Args:
            spec: of the pipeline.
            device: where it runs.
            executors: by stage.
            initial: values that the warm-up needs, by tensor: sensible ones, and any of the right
                shape for inputs whose sizes vary. Everything else is zero.
            timed: every stage is waited for as it runs, and `stage_ms` tells its time. No graphs.

        Raises:
            BackendError: the device or a stage refuses.
        """
        self.owner: object = None
        self.stage_ms: dict[str, float] = {}
        self._spec = spec
        self._device = device
        self._timed = timed
        self._stages = {stage.name: stage for stage in spec.stages}
        self._steady: list[_Call] = [(stage.name, False) for stage in spec.stages]
        self._parity = 0
        self._pending: list[_Call] = []
        self._graphs: dict[int, Graph] = {}
        self._enqueued_once: set[int] = set()
        self._table = DeviceTable(device, spec, all_shapes(spec, executors, initial))
        self._bindings = StageBindings(spec, device, executors, self._table)
        self._events = (device.event(), device.event()) if timed else None
        self._warm_up(initial)

    @property
    def spec(self) -> PipelineSpec:
        """The pipeline that this runner runs."""
        return self._spec

    @property
    def asynchronous(self) -> bool:
        """Yes, but for a runner that is timed."""
        return not self._timed

    @property
    def batch(self) -> int:
        """Streams of the pipeline."""
        return self._spec.stages[0].inputs[0].shape[0]

    @property
    def captured(self) -> int:
        """How many graphs are in use: 2 in mid-video, where stages can be captured."""
        return len(self._graphs)

    def upload(self, name: str, value: NDArray[Any]) -> None:
        """Enqueues a copy of `value`, which may change at once; a varying size may differ.

        Raises:
            ValueError: the tensor has another shape.
        """
        self._flush()
        shape = self._table.tensor(name, self._parity).shape
        if value.shape != shape and fits(value.shape, self._spec.tensor(name).shape):
            self._resize(name, value.shape)
        self._table.upload(name, self._parity, value)

    def run(self, stage: str, *, cold: bool = False) -> None:
        """Notes that the stage is to run; runs it, if the runner is timed.

        Raises:
            BackendError: a timed stage is refused.
        """
        self._pending.append((stage, cold))
        if self._timed:
            self._flush()

    def download(self, name: str) -> NDArray[Any]:
        """The tensor on the host.

        Raises:
            BackendError: a stage is refused, or the device fails.
        """
        self._flush()
        return self._table.download(name, self._parity)

    def advance(self) -> None:
        """Swaps the two buffers of every state edge.

        Raises:
            BackendError: a stage is refused.
        """
        self._flush()
        if self._spec.state:
            self._parity = 1 - self._parity

    def _flush(self) -> None:
        """Carries out what was noted."""
        if not self._pending:
            return
        calls, self._pending = self._pending, []
        self._bindings.update()
        with self._table.writing([self._stages[name] for name, _ in calls]):
            if self._timed:
                self._run_timed(calls)
            elif calls == self._steady:
                self._run_steady()
            else:
                self._enqueue(calls)

    def _run_steady(self) -> None:
        graph = self._graphs.get(self._parity)
        if (
            graph is None
            and self._parity in self._enqueued_once
            and self._bindings.capturable(self._parity)
        ):
            # TensorRT must have enqueued the same before (NVIDIA/TensorRT#2603).
            graph = self._device.capture(lambda: self._enqueue(self._steady))
            self._graphs[self._parity] = graph
        if graph is not None:
            graph.launch()
            return
        self._enqueue(self._steady)
        self._enqueued_once.add(self._parity)

    def _enqueue(self, calls: list[_Call]) -> None:
        for name, cold in calls:
            self._bindings.of(name, self._parity, cold).enqueue()
            self._table.enqueue_results(self._stages[name], self._parity)

    def _run_timed(self, calls: list[_Call]) -> None:
        assert self._events is not None
        start, end = self._events
        for name, cold in calls:
            start.record()
            self._bindings.of(name, self._parity, cold).enqueue()
            end.record()
            self._table.enqueue_results(self._stages[name], self._parity)
            self._table.synchronize()
            self.stage_ms[name] = end.ms_since(start)

    def _resize(self, name: str, shape: Shape) -> None:
        """Another size of an input: graphs hold the old place."""
        self._table.place(name, shape)
        self._bindings.moved(name)
        self._graphs.clear()
        self._enqueued_once.clear()

    def _warm_up(self, initial: Mapping[str, NDArray[Any]]) -> None:
        """A first frame, and as many in mid-video as it takes to have everything captured."""
        start = self._spec.cold_start
        for name, value in initial.items():
            self.upload(name, value)
        for number in range(_WARM_UP_FRAMES):
            cold = start is not None and number == 0
            for name in self._stages:
                if start is None or not (cold and name in start.skip):
                    self.run(name, cold=cold)
            self.advance()
        self._table.synchronize()
        self.stage_ms.clear()

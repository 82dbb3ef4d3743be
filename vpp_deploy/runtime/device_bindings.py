"""A pipeline's stages with a place in a device's memory for each of their tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.runtime.device import BoundStage, Device, DeviceTensor, StageExecutor
from vpp_deploy.runtime.device_table import DeviceTable
from vpp_deploy.runtime.tensors import Shape
from vpp_deploy.specs import PipelineSpec, StageSpec


def all_shapes(
    spec: PipelineSpec,
    executors: Mapping[str, StageExecutor],
    initial: Mapping[str, NDArray[Any]],
) -> dict[str, Shape]:
    """The shape of every tensor, with no size left open.

    Args:
        spec: of the pipeline.
        executors: by stage; they know the sizes of outputs that vary.
        initial: values of inputs whose sizes vary.

    Raises:
        BackendError: a stage does not take such inputs.
    """
    shapes: dict[str, Shape] = {}
    for stage in spec.stages:
        for tensor in stage.inputs:
            given = initial[tensor.name].shape if tensor.name in initial else tensor.shape
            shapes.setdefault(tensor.name, given)
        inputs = {tensor.name: shapes[tensor.name] for tensor in stage.inputs}
        shapes |= _output_shapes(stage, executors[stage.name], inputs)
    return shapes


class StageBindings:
    """The bound stages: warm and cold, for each parity."""

    def __init__(
        self,
        spec: PipelineSpec,
        device: Device,
        executors: Mapping[str, StageExecutor],
        table: DeviceTable,
    ) -> None:
        """Binds nothing yet.

        Args:
            spec: of the pipeline.
            device: where it runs.
            executors: by stage.
            table: the places.
        """
        self._stages = {stage.name: stage for stage in spec.stages}
        self._executors = executors
        self._table = table
        self._keep = None if spec.cold_start is None else spec.cold_start.keep
        self._bound: dict[tuple[str, int, bool], BoundStage] = {}
        self._unbound = set(self._stages)
        self._every_token: DeviceTensor | None = None
        if spec.cold_start is not None:
            # What stands in for the kept tokens at a first frame; it never changes.
            batch = spec.tensor(spec.cold_start.keep).shape[0]
            shape = (batch, spec.cold_start.num_tokens)
            host = device.allocate_host(shape, "int64")
            host[:] = np.arange(spec.cold_start.num_tokens)
            self._every_memory = device.allocate(host.nbytes)
            device.copy_to_device(self._every_memory.pointer, host)
            device.synchronize()
            self._every_token = DeviceTensor(self._every_memory.pointer, "int64", shape)

    def of(self, stage: str, parity: int, cold: bool) -> BoundStage:
        """The stage, once `update` has bound it."""
        return self._bound[stage, parity, cold and self._has_cold(self._stages[stage])]

    def capturable(self, parity: int) -> bool:
        """Whether a frame in mid-video may be captured, once it has been enqueued."""
        return all(self.of(name, parity, False).capturable for name in self._stages)

    def moved(self, tensor: str) -> None:
        """Tells that a tensor has another place: the stages that take it must be bound anew."""
        self._unbound |= {name for name, s in self._stages.items() if _takes(s, tensor)}

    def update(self) -> None:
        """Binds what must be, in places for outputs that fit the sizes of the inputs.

        Raises:
            BackendError: a stage does not take its tensors.
        """
        if not self._unbound:
            return
        for name, stage in self._stages.items():
            if name in self._unbound:
                self._place_outputs(stage)
                self._release(name)
                for cold in (False, True) if self._has_cold(stage) else (False,):
                    self._bind(stage, cold)
                self._unbound.discard(name)

    def _place_outputs(self, stage: StageSpec) -> None:
        inputs = {t.name: self._table.tensor(t.name, 0).shape for t in stage.inputs}
        shapes = _output_shapes(stage, self._executors[stage.name], inputs)
        for name, shape in shapes.items():
            if self._table.tensor(name, 0).shape != shape:
                self._table.place(name, shape)
                self.moved(name)

    def _release(self, name: str) -> None:
        mine = [key for key in self._bound if key[0] == name]
        for bound in {id(bound): bound for bound in map(self._bound.pop, mine)}.values():
            bound.release()

    def _bind(self, stage: StageSpec, cold: bool) -> None:
        """One for each set of places: parities that have the same ones share it."""
        executor = self._executors[stage.name]
        even, odd = (self._places(stage, parity, cold) for parity in (0, 1))
        first = executor.bind(even, cold=cold)
        self._bound[stage.name, 0, cold] = first
        self._bound[stage.name, 1, cold] = first if even == odd else executor.bind(odd, cold=cold)

    def _places(self, stage: StageSpec, parity: int, cold: bool) -> dict[str, DeviceTensor]:
        names = [tensor.name for tensor in (*stage.inputs, *stage.outputs)]
        places = {name: self._table.tensor(name, parity) for name in names}
        if cold and self._keep is not None and self._every_token is not None:
            places[self._keep] = self._every_token
        return places

    def _has_cold(self, stage: StageSpec) -> bool:
        """A first frame is like any other for a stage that does not take the kept tokens."""
        return self._keep is not None and _takes(stage, self._keep)


def _output_shapes(
    stage: StageSpec, executor: StageExecutor, inputs: Mapping[str, Shape]
) -> dict[str, Shape]:
    shapes = {tensor.name: tensor.shape for tensor in stage.outputs}
    if any(-1 in shape for shape in shapes.values()):
        shapes |= executor.output_shapes(inputs)
    return shapes


def _takes(stage: StageSpec, name: str) -> bool:
    return any(tensor.name == name for tensor in stage.inputs)

"""What every `Device` must do, on the host's stand-in and on a GPU."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.host_device import HostDevice
from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.cuda import CudaDevice, list_gpus
from vpp_deploy.runtime.device import Device

DEVICES = [
    pytest.param(HostDevice, id="host"),
    pytest.param(CudaDevice, id="cuda", marks=pytest.mark.needs_cuda),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    make: Callable[[], Device] = request.param
    return make()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "bfloat16", "float32", "int64"])
def test_there_and_back(device: Device, dtype: str) -> None:
    shape = (3, 5)
    there, back = (device.allocate_host(shape, dtype) for _ in range(2))
    assert not there.any()
    there[...] = np.arange(15).reshape(shape) % 2
    memory = device.allocate(there.nbytes)
    assert memory.pointer % 256 == 0
    device.copy_to_device(memory.pointer, there)
    device.copy_to_host(back, memory.pointer)
    device.synchronize()
    np.testing.assert_array_equal(back, there)


def test_new_memory_is_zero(device: Device) -> None:
    ones = device.allocate_host((1000,), "uint8")
    ones[:] = 1
    for _ in range(3):
        memory = device.allocate(1000)
        seen = device.allocate_host((1000,), "uint8")
        device.copy_to_host(seen, memory.pointer)
        device.copy_to_device(memory.pointer, ones)
        device.synchronize()
        assert not seen.any()
        del memory


def test_a_view_keeps_the_hosts_memory(device: Device) -> None:
    view = device.allocate_host((4, 1000), "float32")[1:2]
    view[...] = 7
    others = [device.allocate_host((4, 1000), "float32") for _ in range(4)]
    for other in others:
        other[...] = 1
    assert (view == 7).all()


def test_a_graph_does_again_what_was_captured(device: Device) -> None:
    source, target = (device.allocate_host((8,), "float32") for _ in range(2))
    memory = device.allocate(source.nbytes)

    def enqueue() -> None:
        device.copy_to_device(memory.pointer, source)
        device.copy_to_host(target, memory.pointer)

    source[:] = 1
    graph = device.capture(enqueue)
    device.synchronize()
    assert not target.any()
    for value in (2, 3):
        source[:] = value
        graph.launch()
        device.synchronize()
        assert (target == value).all()


def test_an_error_in_a_capture_leaves_the_device_usable(device: Device) -> None:
    source, target = (device.allocate_host((8,), "float32") for _ in range(2))
    memory = device.allocate(source.nbytes)

    def refuse() -> None:
        device.copy_to_device(memory.pointer, source)
        raise BackendError("refused")

    with pytest.raises(BackendError, match="refused"):
        device.capture(refuse)
    source[:] = 5
    device.copy_to_device(memory.pointer, source)
    device.copy_to_host(target, memory.pointer)
    device.synchronize()
    assert (target == 5).all()


def test_events(device: Device) -> None:
    start, end = device.event(), device.event()
    source = device.allocate_host((1 << 22,), "uint8")
    memory = device.allocate(source.nbytes)
    start.record()
    for _ in range(20):
        device.copy_to_device(memory.pointer, source)
    end.record()
    device.synchronize()
    assert 0 < end.ms_since(start) < 10_000


@pytest.mark.needs_cuda
def test_too_much_memory_is_an_error() -> None:
    (gpu, *_) = list_gpus()
    device = CudaDevice()
    assert device.architecture == gpu.architecture
    with pytest.raises(BackendError, match="CUDA fails allocating"):
        device.allocate(2 * gpu.memory_bytes)
    device.allocate(10)
    device.synchronize()

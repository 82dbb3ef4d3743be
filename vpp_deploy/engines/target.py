"""Which library builds, and for which GPUs."""

from dataclasses import dataclass

from vpp_deploy.engines.architectures import RTX_DEFAULT
from vpp_deploy.errors import EngineError

_TURING = "7.5"


@dataclass(frozen=True)
class Gpu:
    """This machine's GPU.

    Attributes:
        name: as its driver calls it.
        architecture: compute capability, as "8.6".
        driver: its version, where known.
    """

    name: str
    architecture: str
    driver: str | None


@dataclass(frozen=True)
class Target:
    """What engines are built by and for.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        architectures: that the engines are to run on, as "8.6".
        gpu: of this machine, if they can run on it.
        ahead_of_time: the GPU, if there is one, takes no part in the build.
    """

    backend: str
    architectures: tuple[str, ...]
    gpu: Gpu | None
    ahead_of_time: bool


def choose_target(backend: str, asked: tuple[str, ...], gpu: Gpu | None) -> Target:
    """What to build for.

    Args:
        backend: "tensorrt" builds for the GPU that it runs on, and "tensorrt-rtx" also ahead of
            time for others.
        asked: architectures; empty: this machine's GPU, or what the library builds for by default.
        gpu: of this machine.

    Raises:
        EngineError: the backend cannot build for that here.
    """
    if backend == "tensorrt":
        if gpu is None:
            raise EngineError(
                "TensorRT builds engines on the GPU that is to run them, and this machine has none "
                "that works (`vpp-deploy doctor` says why); build there, or ahead of time with "
                "--backend tensorrt-rtx"
            )
        if asked not in ((), (gpu.architecture,)):
            raise EngineError(
                f"TensorRT builds for the GPU that it runs on, here {gpu.architecture} "
                f"({gpu.name}), not for {', '.join(asked)}; build there, or ahead of time with "
                "--backend tensorrt-rtx"
            )
        return Target(backend, (gpu.architecture,), gpu, False)
    if not asked and gpu is not None and gpu.architecture not in RTX_DEFAULT:
        return Target(backend, (gpu.architecture,), gpu, False)
    if _TURING in asked:
        raise EngineError(
            f"TensorRT for RTX has no float32 products for compute capability {_TURING}, and every "
            "precision needs some; build for others"
        )
    architectures = asked or RTX_DEFAULT
    fits = gpu is not None and gpu.architecture in architectures
    return Target(backend, architectures, gpu if fits else None, True)

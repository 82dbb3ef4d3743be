"""Whether an engine may be loaded here: asked of its manifest, before a byte of it is read.

A library that is given another version's or another GPU's engine answers in cryptic words, or
crashes.
"""

from vpp_deploy.engines.architectures import sm_numbers
from vpp_deploy.errors import EngineError
from vpp_deploy.manifests import Manifest


def check_loadable(manifest: Manifest, version: str, architecture: str) -> None:
    """Refuses engines that were not built for this library and this GPU.

    Args:
        manifest: of the engines' folder, as `read_manifest` gave it: the hashes are right.
        version: of the library of the manifest's backend on this machine.
        architecture: of the GPU that is to run them, as "8.6".

    Raises:
        EngineError: they do not fit, or are none; with the command that builds them anew.
    """
    engine = manifest.engine
    if engine is None:
        raise EngineError(
            f"{manifest.name} is a bundle of graphs; build engines with `vpp-deploy build-engine`"
        )
    rebuild = rebuild_command(manifest, architecture)
    if engine.version != version:
        raise EngineError(
            f"the engines of {manifest.name} were built by {engine.backend} {engine.version}, and "
            f"{version} is installed, which cannot load them; build them again: {rebuild}"
        )
    if architecture not in engine.architectures:
        raise EngineError(
            f"the engines of {manifest.name} were built for compute capability "
            f"{', '.join(engine.architectures)}, and this GPU has {architecture}; build them for "
            f"it: {rebuild}"
        )


def rebuild_command(manifest: Manifest, architecture: str | None = None) -> str:
    """The command that builds these engines again.

    Args:
        manifest: of the engines' folder.
        architecture: to build for; None: those that they were built for.
    """
    engine = manifest.engine
    assert engine is not None, "graphs are not built"
    command = (
        f"vpp-deploy build-engine export/{manifest.name} --{manifest.precision} "
        f"--backend {engine.backend}"
    )
    if engine.backend != "tensorrt-rtx":
        return command
    targets = engine.architectures if architecture is None else (architecture,)
    return f"{command} --sm {sm_numbers(targets)}"

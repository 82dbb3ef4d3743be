"""Whether engines run here, asked before anything of them is deserialised.

An engine is code: TensorRT checks one for validity, not for where it is from, and what was built
for another version or GPU ends in cryptic errors or worse. So the manifest is asked first.
"""

from vpp_deploy.errors import EngineError
from vpp_deploy.manifests import Manifest


def check_loadable(manifest: Manifest, version: str, architecture: str) -> None:
    """Compares what engines were built for with what is here.

    Args:
        manifest: of the engines, as `read_manifest` has read it.
        version: of the library of their backend that is installed.
        architecture: compute capability of the GPU, as "8.6".

    Raises:
        EngineError: they are for another version or another GPU, or there are no engines.
    """
    build = manifest.engine
    if build is None:
        raise EngineError(
            f"{manifest.name} holds graphs, no engines; build some with `vpp-deploy build-engine`"
        )
    if build.version != version:
        raise EngineError(
            f"{manifest.name} was built with {build.backend} {build.version}, and {version} is "
            f"installed, which cannot load it; build it again with {rebuild_command(manifest)}, "
            "or install that version"
        )
    if architecture not in build.architectures:
        made_for = " and ".join(build.architectures)
        raise EngineError(
            f"{manifest.name} was built for GPUs of compute capability {made_for}, and this one "
            f"has {architecture}; build it for this one with {rebuild_command(manifest)}"
        )


def rebuild_command(manifest: Manifest) -> str:
    """What to type where the bundle of these engines is."""
    build = manifest.engine
    backend = "" if build is None else f" --backend {build.backend}"
    return f"`vpp-deploy build-engine BUNDLE --{manifest.precision}{backend}`"

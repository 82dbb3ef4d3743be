"""The one swap point of the runtime: who computes the stages, and where their tensors live."""

from typing import Any, Protocol

from numpy.typing import NDArray

from vpp_deploy.specs import PipelineSpec


class PipelineRunner(Protocol):
    """Owns one table of named tensors and runs stages over it.

    A stage reads its inputs from the table and writes its outputs there; nothing else moves, so a
    runner is free to keep the table on a device. `upload` and `download` are the only crossings.
    """

    owner: object
    """The session whose temporal state the table holds."""

    @property
    def spec(self) -> PipelineSpec:
        """Stages, tensors and state that this runner runs."""
        ...

    @property
    def asynchronous(self) -> bool:
        """`run` only asks for a stage; what all of them take shows at the first `download`."""
        ...

    @property
    def batch(self) -> int:
        """Streams that every call steps together."""
        ...

    def upload(self, name: str, value: NDArray[Any]) -> None:
        """Copies a host array into the tensor `name`."""
        ...

    def run(self, stage: str, *, cold: bool = False) -> None:
        """Runs one stage. `cold`: every token is kept, as on a first frame (`ColdStart`)."""
        ...

    def download(self, name: str) -> NDArray[Any]:
        """The tensor `name` on the host; valid until that tensor is written again."""
        ...

    def advance(self) -> None:
        """Ends a frame: each state edge's output becomes its input."""
        ...

"""Which patches ran in which blocks, read from a runner after a frame (MODEL.md 2.2)."""

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.manifests import PATCH_SIZE
from vpp_deploy.results import TokenMap
from vpp_deploy.runtime.made_masks import STAGE
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.specs import PipelineSpec
from vpp_deploy.video.resize import ResizePlan


def selections(spec: PipelineSpec) -> list[tuple[str, str]]:
    """(what to call it, the tensor to read after a frame) of every selection, the widest first."""
    # Once a frame is done, its state is what the next frame is given.
    moved = {edge.output: edge.input for edge in spec.state}
    found = [
        ("kept_3_5" if tensor.name in moved else tensor.name, moved.get(tensor.name, tensor.name))
        for stage in spec.stages
        for tensor in stage.outputs
        if stage.name != STAGE and tensor.dtype == "int64" and len(tensor.shape) == 2
    ]
    return sorted(found)


class TokenMaps:
    """Reads the selections of a pipeline's last frame."""

    def __init__(self, runner: PipelineRunner) -> None:
        """Takes a runner of a pruned model.

        Raises:
            BackendError: the model is dense.
        """
        start = runner.spec.cold_start
        if start is None:
            raise BackendError(
                "this model is dense: every patch runs in every block, so there are no tokens to "
                "show"
            )
        self._runner = runner
        self._first = start.keep
        self._num_tokens = start.num_tokens
        _, height, width, _ = runner.spec.tensor("frames").shape
        self._grid = (height // PATCH_SIZE, width // PATCH_SIZE)
        self._selections = [name for _, name in selections(runner.spec)]

    def read(self) -> list[NDArray[np.int64]]:
        """The positions of each selection, (B, K), the widest first; valid until the next frame."""
        return [self._runner.download(name) for name in self._selections]

    def map(
        self, kept: list[NDArray[np.int64]], stream: int, plan: ResizePlan, *, cold: bool
    ) -> TokenMap:
        """What `read` gave, as a map of one stream; `cold`: the first selection was everything."""
        depth = np.full(self._num_tokens, 1 if cold else 0, np.uint8)
        for name, positions in zip(self._selections, kept, strict=True):
            if not (cold and name == self._first):
                depth[positions[stream]] += 1
        return TokenMap(depth.reshape(self._grid), plan.resized)

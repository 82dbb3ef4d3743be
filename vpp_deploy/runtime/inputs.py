"""What a step is given: the frames, the tracks, and what lets background tokens in."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.manifests import PATCH_SIZE
from vpp_deploy.runtime.exploration import Exploration, Lattice
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.stream import Stream
from vpp_deploy.video.resize import ResizePlan, resize_frame


class StepInputs:
    """Fills the inputs of a pipeline, for all its streams.

    Attributes:
        size: (H, W) of a frame in the input, in pixels.
        slots: tracks that it has room for, None for any number.
        query_width: of a track's query.
    """

    def __init__(self, runner: PipelineRunner, exploration: Exploration | None) -> None:
        """Takes what computes the stages, and what is added to the ranks of tokens.

        Raises:
            BackendError: exploration for a dense model, which ranks nothing, or a lattice of more
                patches than fixed budgets run in blocks 1-2.
        """
        self._runner = runner
        self._exploration = exploration
        spec = runner.spec
        frames, queries = spec.tensor("frames").shape, spec.tensor("track_queries").shape
        self.size = (frames[1], frames[2])
        self._grid = (self.size[0] // PATCH_SIZE, self.size[1] // PATCH_SIZE)
        self.slots = None if queries[1] == -1 else queries[1]
        self.query_width = queries[2]
        self._frames = np.zeros(frames, np.uint8)
        self._sizes = np.zeros((runner.batch, 2), np.int64)
        if any(t.name == "rank_noise" for stage in spec.stages for t in stage.inputs):
            self._rank_bias = np.zeros(spec.tensor("rank_noise").shape, np.float32)
            runner.upload("rank_noise", self._rank_bias)
        elif exploration is not None:
            raise BackendError("this model is dense: it ranks no tokens, so nothing is explored")
        if isinstance(exploration, Lattice):
            self._check_room(exploration)

    def _check_room(self, lattice: Lattice) -> None:
        """What finds no room runs by its score alone, and may never have its turn."""
        start = self._runner.spec.cold_start
        assert start is not None
        budget, most = self._runner.spec.tensor(start.keep).shape[1], lattice.most(self._grid)
        if 0 <= budget < most:
            raise BackendError(
                f"{lattice} puts up to {most} of {start.num_tokens} patches first, and this model "
                f"runs {budget} in blocks 1-2; take a longer period"
            )

    def put(self, s: int, rgb: NDArray[np.uint8], plan: ResizePlan) -> NDArray[np.uint8]:
        """Resizes the frame of stream `s` into its place; returns it there, (h, w, 3)."""
        resize_frame(rgb, plan, out=self._frames[s])
        self._sizes[s] = plan.resized
        return self._frames[s, : plan.resized[0], : plan.resized[1]]

    def upload(self, streams: Sequence[Stream], active: Sequence[int]) -> NDArray[np.bool_]:
        """Frames, tracks and noise, the last for the active streams.

        Returns:
            (B, T) which track slots are in use.
        """
        counts = [len(stream.tracker) for stream in streams]
        slots = counts[0] if self.slots is None else self.slots
        queries = np.zeros((len(counts), slots, self.query_width), np.float32)
        for s, stream in enumerate(streams):
            queries[s, : counts[s]] = stream.tracker.track_queries()
        valid: NDArray[np.bool_] = np.arange(slots) < np.array(counts)[:, None]
        self._runner.upload("frames", self._frames)
        self._runner.upload("frame_sizes", self._sizes)
        self._runner.upload("track_queries", queries)
        self._runner.upload("track_valid", valid)
        if self._exploration is not None:
            for s in active:
                plan = streams[s].plan
                assert plan is not None
                rows, columns = (-(-side // PATCH_SIZE) for side in plan.resized)
                bias = self._exploration.bias(streams[s].frames_seen, self._grid, (rows, columns))
                self._rank_bias[s] = bias
            self._runner.upload("rank_noise", self._rank_bias)
        return valid

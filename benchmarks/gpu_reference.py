"""The public code's way to run VPP, on a GPU: eager, and compiled as far as it compiles.

The network is that of `benchmarks/reference.py`, half precision is autocast, as it is used in
research code, and masks are made on the device. The tracker runs on the host and is left out of
every time: its NMS over masks would be waited for, which the public code might not do.

Two ways to feed it. `published`: the threshold rule, as many track queries as there are tracks.
`fixed`: fixed budgets and a fixed number of constant track queries in place of a tracker's, because
sizes that depend on data would have it compiled anew again and again.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_torch import encodings_on, forget_compiled, new_event
from benchmarks.reference import ReferenceSession
from benchmarks.reference_network import Prediction, ReferenceHead, Stopwatch, sample_stacked
from benchmarks.reference_tracking import Instances, ReferenceTracker, find_instances
from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.checkpoints.reader import read_checkpoint
from vpp_deploy.models.backbone import Selection
from vpp_deploy.models.deformable import LevelSizes
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vpp import PUBLISHED, FrameOutput, VppModel
from vpp_deploy.recipe_files import load_recipe
from vpp_deploy.results import Tracks
from vpp_deploy.video.resize import ResizePlan, plan_for_input, resize_frame
from vpp_deploy.video.source import Frame

Feed = Literal["published", "fixed"]
PARTS = ("backbone", "pixel decoder", "transformer decoder")
WHOLE = "network"


class EventClock(Stopwatch):
    """Device time of a frame's parts."""

    def restart(self) -> None:
        """Begins a new frame."""
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self.lap("")

    def lap(self, name: str) -> None:
        """Ends the part called `name`; the next begins."""
        event = new_event()
        event.record()
        self._marks.append((name, event))

    def read(self) -> dict[str, float]:
        """Part to milliseconds; waits for the device."""
        self._marks[-1][1].synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {name: start.elapsed_time(end) for (_, start), (name, end) in pairs}


class _Silent(Stopwatch):
    """Takes no time: what is compiled must not read a clock."""

    def lap(self, name: str) -> None:
        """Nothing."""


class _AllValid:
    """Says that every track query holds a track, without a question to the device.

    The head asserts it; asked of a tensor, that would make it wait, and cut what is compiled.
    """

    def all(self) -> bool:
        """Yes."""
        return True


class DeviceReference:
    """One video through the reference on a device.

    Attributes:
        frame_ms: wall time of the last frame, from the picture to its masks on the device.
        part_ms: of the last frame, if it was timed: its `PARTS`, or `WHOLE` of what is compiled.
    """

    def __init__(
        self,
        checkpoint: Path,
        recipe_path: Path,
        input_size: tuple[int, int],
        device: torch.device,
        *,
        half: bool,
        feed: Feed = "published",
        compile_mode: str | None = None,
    ) -> None:
        """Loads the model.

        Args:
            checkpoint: its weights.
            recipe_path: budgets and track slots of the fixed feed.
            input_size: (H, W) of the padded input.
            device: where it runs.
            half: under autocast to float16.
            feed: `published` or `fixed`.
            compile_mode: of `torch.compile`, for the fixed feed; None: eager.
        """
        recipe = load_recipe(recipe_path)
        model = build_model(read_checkpoint(checkpoint), recipe.model, _sample)
        ReferenceSession(model, input_size)  # puts the reference's head and attention in place
        model.to(device)
        with device:
            constants = model.backbone.constants(input_size)
        model.backbone.constants = lambda input_size: constants  # type: ignore[method-assign]
        assert isinstance(model.panoptic_head, ReferenceHead)
        self._head: ReferenceHead = model.panoptic_head
        self._model: VppModel = model
        self._input_size: tuple[int, int] = input_size
        self._device: torch.device = device
        self._half: bool = half
        self._selection: Selection = PUBLISHED
        self._constant_queries: Tensor | None = None
        if feed == "fixed":
            self._constant_queries = self._head.own.query_feat.weight[None, : recipe.slots]
            if recipe.budgets is not None:
                assert model.config.keep_ratio is not None
                num_tokens = (input_size[0] // 16) * (input_size[1] // 16)
                counts = recipe.budgets.tokens(num_tokens, model.config.keep_ratio)
                chosen = (counts.blocks_3_5, counts.blocks_6_8, counts.blocks_9_11)
                self._selection = Selection(counts=chosen)
        self._compiled: Callable[..., FrameOutput] | None = None
        if compile_mode is not None:
            # The decoder looks for rows that are blocked everywhere, a question to the device. With
            # this the network is one graph all the same, but none that CUDA could capture.
            forget_compiled(capture_questions=compile_mode == "default")
            self._compiled = torch.compile(self._network, mode=compile_mode, dynamic=False)
        self._silent: Stopwatch = _Silent()
        self._clock: Stopwatch = EventClock() if device.type == "cuda" else Stopwatch()
        self.frame_ms: float = 0.0
        self.part_ms: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """Back to the first frame of a video."""
        self._memory: TokenMemory | None = None
        self._tracker = ReferenceTracker(self._model.config.head_width)
        self._frames_seen = 0

    @torch.inference_mode()
    def step(self, frame: Frame, *, timed: bool = False) -> Tracks:
        """The next frame; `timed` also tells `part_ms`.

        Returns:
            Its tracks; with the fixed feed, its instances, each with its query as identity.
        """
        begun = time.perf_counter()
        plan = plan_for_input(frame.rgb.shape[0], frame.rgb.shape[1], self._input_size)
        image = torch.from_numpy(resize_frame(frame.rgb, plan))[None].to(self._device)
        size = torch.tensor([plan.resized], device=self._device)
        queries = self._constant_queries
        if queries is None:
            queries = self._tracker.track_queries()[None].to(self._device)
        # What is compiled must not read a clock.
        self._head.clock = self._clock if timed and self._compiled is None else self._silent
        self._clock.restart()
        out = self._call(image, size, queries)
        if timed:
            self.part_ms = self._read_clock()
        prediction = cast(Prediction, out.head)
        found = self._find(prediction, plan)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.frame_ms = (time.perf_counter() - begun) * 1e3
        (memory,) = out.memories
        self._memory = memory if memory is None else TokenMemory(*map(_own, memory))
        return self._follow(found, prediction.queries_QD)

    def _read_clock(self) -> dict[str, float]:
        if self._compiled is not None:
            self._clock.lap(WHOLE)
        clock = self._clock
        return clock.read() if isinstance(clock, EventClock) else clock.stage_ms

    def _call(self, image: Tensor, size: Tensor, queries: Tensor) -> FrameOutput:
        arguments = (image, size, self._memory, queries)
        # A first frame, which a pruned model runs otherwise, is too rare to be compiled.
        first = self._frames_seen == 0
        if self._compiled is None or first:
            with encodings_on(self._device):
                return self._network(*arguments)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with self._device:
            return self._compiled(*arguments)

    def _network(
        self, image: Tensor, size: Tensor, memory: TokenMemory | None, queries: Tensor
    ) -> FrameOutput:
        valid = cast(Tensor, _AllValid())
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            output: FrameOutput = self._model(
                image, size, (memory,), queries, valid, self._selection
            )
        return output

    def _find(self, prediction: Prediction, plan: ResizePlan) -> Instances:
        with self._device:  # it makes boxes of its own
            return find_instances(
                prediction.class_logits_QK,
                prediction.mask_logits_QHW,
                self._model.config.num_queries,
                plan.padded,
                plan.resized,
                plan.frame_size,
            )

    def _follow(self, found: Instances, queries_QD: Tensor) -> Tracks:
        fields = Instances.__dataclass_fields__
        own = Instances(*(getattr(found, name).cpu() for name in fields))
        self._frames_seen += 1
        if self._constant_queries is None:
            return self._tracker.update(self._frames_seen - 1, own, queries_QD.float().cpu())
        query_ids = own.query_ids.numpy()
        return Tracks(
            query_ids,
            own.labels.numpy(),
            own.scores.float().numpy().astype(np.float32),
            own.boxes.numpy(),
            own.masks.numpy(),
            query_ids,
        )


def _own(value: Tensor) -> Tensor:
    """Out of the memory that a compiled network writes again, and laid out like any other frame's.

    Another layout would have the network compiled anew.
    """
    return value.clone(memory_format=torch.contiguous_format)


def _sample(value: Tensor, sizes: LevelSizes, cells: Tensor, weights: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return sample_stacked(value, sizes, cells, weights)
    with value.device:  # it makes constants of its own
        return sample_stacked(value, sizes, cells, weights)

"""Who makes the masks of a frame: the host from their logits, or a stage of the pipeline."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vpp_deploy.runtime.detections import Detections
from vpp_deploy.runtime.made_masks import MadeMasks, makes_masks, upload_weights
from vpp_deploy.runtime.postprocess import PostprocessSettings, detect, select_pairs
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.video.resize import ResizePlan

Plans = Sequence[ResizePlan | None]
"""How each stream's frames become the input; None for a stream that has no frame."""


class Detector(Protocol):
    """Post-processing of a step."""

    def prepare(self, plans: Plans) -> None:
        """Called before the stages run."""
        ...

    def read(self, plans: Plans, valid_BT: NDArray[np.bool_]) -> Callable[[int], Detections]:
        """Called after they did; returns what makes a stream's detections.

        Raises:
            FloatingPointError: a score or a mask is not finite; also from what is returned.
        """
        ...


def new_detector(runner: PipelineRunner, settings: PostprocessSettings) -> Detector:
    """The one that fits the runner's pipeline."""
    if makes_masks(runner):
        return _DeviceDetector(runner, settings)
    return _HostDetector(runner, settings)


class _HostDetector:
    def __init__(self, runner: PipelineRunner, settings: PostprocessSettings) -> None:
        self._runner, self._settings = runner, settings
        frames = runner.spec.tensor("frames").shape
        self._input_size = (frames[1], frames[2])

    def prepare(self, plans: Plans) -> None:
        pass

    def read(self, plans: Plans, valid_BT: NDArray[np.bool_]) -> Callable[[int], Detections]:
        class_logits = self._runner.download("class_logits")
        mask_logits = self._runner.download("mask_logits")

        def detections(s: int) -> Detections:
            plan = plans[s]
            assert plan is not None
            return detect(
                class_logits[s],
                mask_logits[s],
                valid_BT[s],
                self._input_size,
                plan.resized,
                plan.frame_size,
                self._settings,
            )

        return detections


class _DeviceDetector:
    def __init__(self, runner: PipelineRunner, settings: PostprocessSettings) -> None:
        self._runner, self._settings = runner, settings
        frames = runner.spec.tensor("frames").shape
        self._input_size = (frames[1], frames[2])
        self._uploaded: Plans = ()
        runner.upload("mask_offset", np.zeros(1, np.int64))

    def prepare(self, plans: Plans) -> None:
        if list(plans) != list(self._uploaded):
            upload_weights(self._runner, plans, self._input_size)
            self._uploaded = list(plans)

    def read(self, plans: Plans, valid_BT: NDArray[np.bool_]) -> Callable[[int], Detections]:
        class_logits = self._runner.download("class_logits")
        pairs = [
            None if plan is None else select_pairs(class_logits[s], valid_BT[s], self._settings)
            for s, plan in enumerate(plans)
        ]
        made = MadeMasks(self._runner, pairs)

        def detections(s: int) -> Detections:
            plan, own = plans[s], pairs[s]
            assert plan is not None
            assert own is not None
            return made.detections(s, own, plan.frame_size)

        return detections

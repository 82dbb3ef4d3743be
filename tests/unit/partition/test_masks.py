"""Masks made as a stage against masks made on the host from the same logits."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vpp_deploy.partition.masks import MAX_MASKS, Masks
from vpp_deploy.partition.plan import PipelinePlan
from vpp_deploy.runtime.detections import Detections
from vpp_deploy.runtime.detector import new_detector
from vpp_deploy.runtime.postprocess import PostprocessSettings, detect
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.specs import PipelineSpec, StageSpec, TensorSpec
from vpp_deploy.video.resize import ResizePlan, plan_for_input

INPUT_SIZE = (96, 128)
QUERIES, SLOTS, CLASSES = 40, 8, 5


def masks_plan(batch: int) -> PipelinePlan:
    """The stage alone, with what the session's pipelines have around it."""
    height, width = INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4
    stage = StageSpec(
        "masks",
        (
            TensorSpec("class_logits", "float32", (batch, QUERIES, CLASSES + 1)),
            TensorSpec("mask_logits", "float32", (batch, QUERIES, height, width)),
            TensorSpec("track_valid", "bool", (batch, SLOTS)),
            TensorSpec("row_weights", "float32", (batch, -1, height)),
            TensorSpec("column_weights", "float32", (batch, width, -1, 8)),
            TensorSpec("mask_offset", "int64", (1,)),
        ),
        (
            TensorSpec("mask_queries", "int64", (batch, MAX_MASKS)),
            TensorSpec("mask_bits", "uint8", (batch, MAX_MASKS, -1, -1)),
            TensorSpec("mask_sums", "float32", (batch, MAX_MASKS)),
            TensorSpec("mask_checks", "float32", (batch, MAX_MASKS)),
        ),
    )
    stem = StageSpec("stem", (TensorSpec("frames", "uint8", (batch, *INPUT_SIZE, 3)),), ())
    return PipelinePlan(PipelineSpec((stem, stage), (), None), {"masks": Masks()})


def logits(
    batch: int, confident: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Blobs; the first `confident` queries of a shuffled order are well above the thresholds."""
    rng = np.random.default_rng(seed)
    class_logits = rng.normal(0, 0.3, (batch, QUERIES, CLASSES + 1)).astype(np.float32)
    class_logits[..., -1] += 3
    for s in range(batch):
        chosen = rng.permutation(QUERIES)[:confident]
        class_logits[s, chosen, rng.integers(CLASSES, size=confident)] += 6
    coarse = rng.normal(-0.5, 4, (batch * QUERIES, 1, 5, 6)).astype(np.float32)
    size = (INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size, mode="bicubic")
    valid = np.arange(SLOTS) < np.full((batch, 1), 3)
    return class_logits, smooth.reshape(batch, QUERIES, *size).numpy(), valid


def detected(
    arrays: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]],
    plans: list[ResizePlan | None],
) -> list[Detections]:
    runner = TorchRunner(masks_plan(len(plans)))
    detector = new_detector(runner, PostprocessSettings())
    detector.prepare(plans)
    for name, value in zip(("class_logits", "mask_logits", "track_valid"), arrays, strict=True):
        runner.upload(name, value)
    runner.run("masks")
    read = detector.read(plans, arrays[2])
    return [read(s) for s, plan in enumerate(plans) if plan is not None]


def check_equal(got: Detections, expected: Detections) -> None:
    assert got.query_ids.tolist() == expected.query_ids.tolist()
    assert got.labels.tolist() == expected.labels.tolist()
    assert got.frame_size == expected.frame_size
    np.testing.assert_allclose(got.scores, expected.scores, atol=2e-5)
    rows = range(len(got))
    # A pixel whose logit is zero but for rounding may fall on either side.
    differing = (got.pixels(rows) != expected.pixels(rows)).sum(axis=(1, 2))
    assert differing.max(initial=0) <= 3


def on_host(
    arrays: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]],
    s: int,
    plan: ResizePlan,
) -> Detections:
    class_logits, mask_logits, valid = (array[s] for array in arrays)
    return detect(class_logits, mask_logits, valid, INPUT_SIZE, plan.resized, plan.frame_size)


@pytest.mark.parametrize("frame_size", [(96, 128), (180, 239), (61, 82), (50, 300)])
def test_a_stage_makes_what_the_host_makes(frame_size: tuple[int, int]) -> None:
    arrays, plan = logits(1, confident=12), plan_for_input(*frame_size, INPUT_SIZE)
    (got,) = detected(arrays, [plan])
    expected = on_host(arrays, 0, plan)
    assert len(expected) >= 5
    check_equal(got, expected)


def test_more_candidates_than_one_call_makes() -> None:
    arrays, plan = logits(1, confident=38), plan_for_input(180, 240, INPUT_SIZE)
    (got,) = detected(arrays, [plan])
    expected = on_host(arrays, 0, plan)
    assert len(set(expected.query_ids.tolist())) > MAX_MASKS
    check_equal(got, expected)


def test_streams_of_different_sizes_and_one_without_a_frame() -> None:
    arrays = logits(3, confident=20)
    plans = [plan_for_input(180, 240, INPUT_SIZE), None, plan_for_input(96, 77, INPUT_SIZE)]
    first, last = detected(arrays, plans)
    for s, got in ((0, first), (2, last)):
        plan = plans[s]
        assert plan is not None
        check_equal(got, on_host(arrays, s, plan))


def test_nothing_found() -> None:
    arrays, plan = logits(1, confident=0), plan_for_input(180, 240, INPUT_SIZE)
    (got,) = detected(arrays, [plan])
    assert len(got) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_noticed(value: float) -> None:
    class_logits, mask_logits, valid = logits(1, confident=38)
    plan = plan_for_input(180, 240, INPUT_SIZE)
    candidates = on_host((class_logits, mask_logits, valid), 0, plan).query_ids
    mask_logits[0, candidates[-1], 3, 4] = value
    with pytest.raises(FloatingPointError, match="mask logits"):
        detected((class_logits, mask_logits, valid), [plan])

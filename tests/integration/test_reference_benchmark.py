"""The benchmark's reference computes what the model does: its time may stand beside ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.memory import growth_percent
from benchmarks.reference import open_reference
from benchmarks.report import Series, ratio
from tests.mini import INPUT_SIZE, frames, mini_config, write_mini_checkpoint
from tests.parity_data import DENSE_TINY, RECORDINGS, VPP_TINY, load_recording, unpack_masks
from vpp_deploy.checkpoints.formula import Size, write_formula_checkpoint
from vpp_deploy.checkpoints.load import load_model
from vpp_deploy.partition.plan import plan_pipeline
from vpp_deploy.recipes import ModelSettings
from vpp_deploy.results import Tracks
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.video.source import Frame

SIZES: dict[str, Size] = {VPP_TINY: "tiny", DENSE_TINY: "dense-tiny"}
SCORE_TOLERANCE = 5e-4
MIN_IOU = 0.99
FRAMES = 14


@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "dense"])
@pytest.mark.parametrize("frame_size", [INPUT_SIZE, (90, 158)], ids=["as it is", "resized"])
def test_same_tracks_as_the_project(
    tmp_path: Path, pruned: bool, frame_size: tuple[int, int]
) -> None:
    checkpoint = write_mini_checkpoint(tmp_path / "mini.safetensors", mini_config(pruned))
    model, _ = load_model(checkpoint, ModelSettings())
    ours = VideoSession(TorchRunner(plan_pipeline(model, INPUT_SIZE, None, None)))
    reference = open_reference(checkpoint, None, INPUT_SIZE)
    seen = set()
    for frame in frames(FRAMES, size=frame_size):
        expected, got = ours.step(frame), reference.step(frame)
        _assert_same(got.tracks, expected.tracks)
        assert (got.index, got.first) == (expected.index, expected.first)
        seen.update(got.tracks.ids.tolist())
    assert seen
    assert reference.num_queries > mini_config().num_queries
    assert (reference.kept_share < 1) == pruned


def test_times_every_part(tmp_path: Path) -> None:
    checkpoint = write_mini_checkpoint(tmp_path / "mini.safetensors")
    reference = open_reference(checkpoint, None, INPUT_SIZE)
    for frame in frames(2):
        stage_ms = reference.step(frame).stage_ms
        parts = ["resize", "backbone", "pixel decoder", "transformer decoder", "postprocess"]
        assert list(stage_ms) == [*parts, "tracking"]
        assert min(stage_ms.values()) > 0


@pytest.mark.parametrize("name", RECORDINGS)
def test_same_tracks_as_the_recordings(name: str, tmp_path: Path) -> None:
    recording = load_recording(name)
    checkpoint = tmp_path / "model.safetensors"
    write_formula_checkpoint(checkpoint, SIZES[name])
    reference = open_reference(checkpoint, None, recording["frames_rgb"].shape[1:3])
    for t, rgb in enumerate(recording["frames_rgb"]):
        tracks = reference.step(Frame(t, None, rgb)).tracks
        _assert_same(tracks, _recorded_tracks(recording, t))
        if name == VPP_TINY:
            assert reference.kept_share == pytest.approx(recording[f"f{t}/mask"].mean())


def test_ratios_are_of_the_same_frames() -> None:
    slow, fast = Series("slow"), Series("fast", reference="slow")
    slow.stage_ms = [{"backbone": 900.0}, *({"backbone": x} for x in (100.0, 300.0, 800.0))]
    fast.stage_ms = [{"stem": 1.0}, *({"stem": x, "head": x} for x in (20.0, 30.0, 40.0))]
    assert ratio(fast, slow) == pytest.approx(0.2)
    assert (fast.part_ms("backbone"), fast.part_ms("head")) == (30, 30)


def test_growth_of_memory_is_that_after_the_warm_up() -> None:
    warm_up = list(range(0, 1000, 10))
    assert growth_percent(warm_up + [1000] * 900) == 0
    assert growth_percent(warm_up + [1000] * 800 + [1020] * 100) == pytest.approx(2)


def _recorded_tracks(recording: dict[str, NDArray[Any]], t: int) -> Tracks:
    def of(name: str) -> NDArray[Any]:
        return recording[f"f{t}/track_{name}"]

    masks = unpack_masks(of("masks_packed"), of("masks_shape"))
    return Tracks(of("ids"), of("labels"), of("scores"), of("bboxes"), masks, of("query_ids"))


def _assert_same(got: Tracks, expected: Tracks) -> None:
    """Equal tracks; neighbours whose scores nearly tie may have changed places."""
    order, other = np.argsort(got.ids), np.argsort(expected.ids)
    np.testing.assert_array_equal(got.ids[order], expected.ids[other])
    np.testing.assert_array_equal(got.labels[order], expected.labels[other])
    np.testing.assert_array_equal(got.query_ids[order], expected.query_ids[other])
    scores = got.scores[order], expected.scores[other]
    np.testing.assert_allclose(*scores, rtol=0, atol=SCORE_TOLERANCE)
    for mine, theirs in zip(got.masks[order], expected.masks[other], strict=True):
        union = (mine | theirs).sum()
        assert not union or (mine & theirs).sum() / union > MIN_IOU

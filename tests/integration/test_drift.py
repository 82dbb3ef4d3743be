"""Two models over the same frames: what counts as drift, and that it is noticed."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.mini import INPUT_SIZE, ExportedMini, frames, write_mini_checkpoint
from vpp_deploy.drift import FEATURES, Bounds, DriftReport, measure_drift
from vpp_deploy.errors import BundleError
from vpp_deploy.results import Tracks
from vpp_deploy.runtime.opening import open_bundle, open_checkpoint


def tracks(ids: list[int], corners: list[tuple[int, int]], side: int = 10) -> Tracks:
    """Squares with their top left corners there."""
    masks: NDArray[np.bool_] = np.zeros((len(ids), 60, 80), np.bool_)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + side, left : left + side] = True
    zeros = np.zeros(len(ids), np.int64)
    boxes = np.zeros((len(ids), 4), np.float32)
    return Tracks(np.array(ids), zeros, zeros.astype(np.float32), boxes, masks, zeros)


class TestTracks:
    def test_the_same(self) -> None:
        report = DriftReport()
        for _ in range(3):
            report.add_tracks(
                tracks([0, 1], [(0, 0), (30, 30)]), tracks([7, 4], [(30, 30), (0, 0)])
            )
        assert (report.matched, report.mean_iou, report.same_ids) == (1.0, 1.0, 1.0)
        assert not report.failures(Bounds())

    def test_one_is_missed(self) -> None:
        report = DriftReport()
        report.add_tracks(tracks([0, 1], [(0, 0), (30, 30)]), tracks([0], [(0, 0)]))
        assert report.matched == 0.5
        (failure,) = report.failures(Bounds())
        assert failure.startswith("50.0% of the instances")

    def test_masks_that_overlap_less_are_two(self) -> None:
        report = DriftReport()
        report.add_tracks(tracks([0], [(0, 0)]), tracks([0], [(0, 5)]))
        assert (report.instances, report.ious) == (2, [])
        assert math.isnan(report.mean_iou)

    def test_shifted_masks(self) -> None:
        report = DriftReport()
        report.add_tracks(tracks([0], [(0, 0)]), tracks([0], [(0, 2)]))
        assert report.mean_iou == pytest.approx(80 / 120)
        assert any("mean IoU is 0.667" in failure for failure in report.failures(Bounds()))

    def test_identities_that_swap(self) -> None:
        report = DriftReport()
        here = tracks([0, 1], [(0, 0), (30, 30)])
        for _ in range(3):
            report.add_tracks(here, here)
        report.add_tracks(here, tracks([1, 0], [(0, 0), (30, 30)]))
        assert report.same_ids == pytest.approx(6 / 8)
        assert any("75.0% of their ids" in failure for failure in report.failures(Bounds()))

    def test_nothing_found_by_either(self) -> None:
        report = DriftReport()
        report.add_tracks(tracks([], []), tracks([], []))
        assert report.matched == 1
        assert not report.failures(Bounds())


class TestModels:
    def test_graphs_against_pytorch(
        self, mini_bundle: ExportedMini, mini_checkpoint: Path, mini_recipe: Path
    ) -> None:
        graphs = open_bundle(mini_bundle.folder)
        torch = open_checkpoint(mini_checkpoint, INPUT_SIZE, "budgets", mini_recipe)
        report = measure_drift(graphs, torch, frames(8))
        assert report.frames == 8
        assert set(report.token_shares) == {"kept_1_2", "kept_3_5", "kept_6_8", "kept_9_11"}
        assert {len(shares) for shares in report.token_shares.values()} == {7}
        assert report.instances > 10
        assert not report.failures(Bounds(tokens=0.99, tracks=0.99, iou=0.99, features=1e-3))
        for name in FEATURES:
            assert 0 < report.values[name].largest < 1e-2

    def test_other_weights_are_noticed(
        self, mini_bundle: ExportedMini, mini_folder: Path, mini_recipe: Path
    ) -> None:
        changed = write_mini_checkpoint(
            mini_folder / "changed.safetensors",
            changes={"detector.backbone.level_embed": np.ones((3, 48), np.float32)},
        )
        torch = open_checkpoint(changed, INPUT_SIZE, "budgets", mini_recipe)
        report = measure_drift(open_bundle(mini_bundle.folder), torch, frames(4))
        assert any("projected8 differs" in failure for failure in report.failures(Bounds()))

    def test_models_that_cannot_be_compared(
        self,
        mini_bundle: ExportedMini,
        mini_bundle_of_3: ExportedMini,
        mini_dense_bundle: ExportedMini,
    ) -> None:
        one, three, dense = (
            open_bundle(b.folder) for b in (mini_bundle, mini_bundle_of_3, mini_dense_bundle)
        )
        with pytest.raises(BundleError, match="different streams"):
            measure_drift(one, three, frames(1))
        with pytest.raises(BundleError, match="different budgets"):
            measure_drift(one, dense, frames(1))
        with pytest.raises(BundleError, match="steps 3 streams"):
            measure_drift(three, three, frames(1))

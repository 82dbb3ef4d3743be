"""The runner over a device, with a small pipeline (`tests/small_pipeline.py`)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.host_device import HostDevice, HostStage
from tests.small_pipeline import COLD, SPEC, WARM, open_small
from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.device_runner import DeviceRunner


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    return open_small()


class Small:
    """A runner of the small pipeline with its device and its stages."""

    def __init__(
        self, sessions: dict[str, Any], *, timed: bool = False, capturable: bool = True
    ) -> None:
        self.device = HostDevice()
        self.stages = {
            stage.name: HostStage(self.device, sessions[stage.name], stage, capturable=capturable)
            for stage in SPEC.stages
        }
        initial = {"weights": np.zeros((1, 3), np.float32)}
        self.runner = DeviceRunner(SPEC, self.device, self.stages, initial, timed=timed)
        self.memory = np.zeros(4, np.float32)

    def frame(self, x: NDArray[np.float32], *, cold: bool = False) -> None:
        self.runner.upload("x", x[None])
        for stage in COLD if cold else WARM:
            self.runner.run(stage, cold=cold)
        self.runner.advance()

    def total(self, x: NDArray[np.float32], *, cold: bool = False) -> float:
        """What the frame must come to; keeps the state as the runner does."""
        kept = np.arange(4) if cold else np.argsort(-(x + self.memory), kind="stable")[:2]
        self.memory = 2 * x
        return float(x[kept].sum())

    def check(self, x: NDArray[np.float32], *, cold: bool = False) -> None:
        """A frame, compared with what it must come to."""
        self.frame(x, cold=cold)
        total = self.total(x, cold=cold)
        np.testing.assert_allclose(self.runner.download("class_logits"), [[total]], rtol=1e-6)
        np.testing.assert_array_equal(self.runner.download("echo"), x[None])


@pytest.fixture
def small(sessions: dict[str, Any]) -> Small:
    return Small(sessions)


def values(seed: int = 0) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.standard_normal(4).astype(np.float32)


def weights(count: int) -> NDArray[np.float32]:
    return np.arange(1, count + 1, dtype=np.float32)[None]


def test_frames_with_first_frames_among_them(small: Small) -> None:
    small.runner.upload("weights", weights(3))
    for number, x in zip(range(12), values(), strict=False):
        small.check(x, cold=number in (0, 5, 6, 10))
        total = small.runner.download("class_logits")
        np.testing.assert_array_equal(small.runner.download("spread"), total * weights(3))


class TestSteadyFrames:
    def test_everything_is_captured_when_it_is_loaded(self, small: Small) -> None:
        assert small.runner.captured == 2
        assert small.runner.asynchronous
        assert small.runner.batch == 1

    @pytest.mark.parametrize("capturable", [True, False])
    def test_what_a_frame_costs(self, sessions: dict[str, Any], capturable: bool) -> None:
        small = Small(sessions, capturable=capturable)
        xs = values()
        small.check(next(xs), cold=True)
        for _ in range(4):
            small.device.counts.clear()
            small.check(next(xs))
            expected = {"up": 1, "synchronize": 1}
            if capturable:
                expected |= {"launch": 1}
            else:
                expected |= {"select": 1, "gather": 1, "spread": 1, "down": 3}
            assert small.device.counts == expected
        assert small.runner.captured == (2 if capturable else 0)

    def test_results_cost_one_wait_for_all(self, small: Small) -> None:
        small.check(np.ones(4, np.float32), cold=True)
        small.device.counts.clear()
        small.frame(np.ones(4, np.float32))
        for _ in range(3):
            for name in ("class_logits", "echo", "spread"):
                small.runner.download(name)
        assert small.device.counts == {"up": 1, "launch": 1, "synchronize": 1}
        small.runner.download("kept")
        assert small.device.counts["down"] == 1

    def test_a_first_frame_is_enqueued_stage_by_stage(self, small: Small) -> None:
        small.device.counts.clear()
        small.check(np.ones(4, np.float32), cold=True)
        assert small.device.counts["launch"] == 0
        assert (small.device.counts["gather"], small.device.counts["select"]) == (1, 0)
        assert small.runner.captured == 2

    def test_the_same_stages_run_otherwise(self, small: Small) -> None:
        """As where streams start at different times."""
        x = np.array([1, 2, 3, 5], np.float32)
        small.check(x, cold=True)
        small.runner.upload("x", x[None])
        for stage in WARM:
            small.runner.run(stage, cold=stage == "gather")
        small.runner.advance()
        assert small.runner.download("class_logits") == 11


class TestCrossings:
    def test_an_upload_does_not_overtake_a_stage_that_was_asked_for(self, small: Small) -> None:
        first, second = np.ones(4, np.float32), np.full(4, 5, np.float32)
        small.runner.upload("x", first[None])
        small.runner.run("gather", cold=True)
        small.runner.upload("x", second[None])
        assert small.runner.download("class_logits") == 4
        assert (small.runner.download("x") == 5).all()

    def test_an_upload_does_not_overwrite_one_that_is_under_way(self, small: Small) -> None:
        for value in (1, 2, 3):
            small.runner.upload("x", np.full((1, 4), value, np.float32))
        small.runner.run("gather", cold=True)
        assert small.runner.download("class_logits") == 12

    def test_the_array_may_change_after_its_upload(self, small: Small) -> None:
        x = np.ones((1, 4), np.float32)
        small.runner.upload("x", x)
        x[:] = 7
        small.runner.run("gather", cold=True)
        assert small.runner.download("class_logits") == 4

    def test_the_state_is_where_the_next_frame_looks_for_it(self, small: Small) -> None:
        for x in (np.ones(4, np.float32), np.full(4, 3, np.float32), np.zeros(4, np.float32)):
            small.frame(x, cold=True)
            np.testing.assert_array_equal(small.runner.download("memory"), 2 * x[None])

    def test_a_result_that_the_host_mends(self, small: Small) -> None:
        small.frame(np.ones(4, np.float32), cold=True)
        small.runner.download("echo")
        mended = np.full((1, 4), 9, np.float32)
        small.runner.upload("echo", mended)
        np.testing.assert_array_equal(small.runner.download("echo"), mended)

    @pytest.mark.parametrize(("name", "shape"), [("x", (1, 5)), ("x", (4,)), ("weights", (2, 3))])
    def test_a_wrong_shape(self, small: Small, name: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=f"{name} takes shape .*got"):
            small.runner.upload(name, np.zeros(shape, np.float32))

    def test_a_wrong_type(self, small: Small) -> None:
        with pytest.raises(TypeError, match="float64"):
            small.runner.upload("x", np.zeros((1, 4)))


class TestSizesThatVary:
    def test_another_size(self, small: Small) -> None:
        xs = values(1)
        small.check(next(xs), cold=True)
        for count in (3, 7, 2, 7):
            small.runner.upload("weights", weights(count))
            for _ in range(5):
                small.check(next(xs))
                spread = small.runner.download("spread")
                np.testing.assert_array_equal(
                    spread, small.runner.download("class_logits") * weights(count)
                )

    def test_graphs_of_the_old_size_are_dropped_and_made_anew(self, small: Small) -> None:
        xs = values(2)
        small.runner.upload("weights", weights(3))
        assert small.runner.captured == 2
        small.runner.upload("weights", weights(5))
        assert small.runner.captured == 0
        small.device.counts.clear()
        for _ in range(4):
            small.check(next(xs))
        assert small.device.counts["capture"] == 2
        assert small.runner.captured == 2

    def test_frames_that_are_under_way_are_done_first(self, small: Small) -> None:
        small.frame(np.ones(4, np.float32), cold=True)
        small.runner.upload("weights", weights(6))
        small.runner.run("spread")
        np.testing.assert_array_equal(small.runner.download("spread"), 4 * weights(6))

    def test_nothing_of_the_old_size_is_left(self, small: Small) -> None:
        before = small.stages["spread"].bound
        for count in range(4, 9):
            small.runner.upload("weights", weights(count))
            small.check(np.ones(4, np.float32))
        assert small.stages["spread"].bound == before


class TestRefusals:
    def test_a_refused_stage_is_an_error_and_no_old_result(self, small: Small) -> None:
        small.frame(np.ones(4, np.float32), cold=True)
        np.testing.assert_array_equal(small.runner.download("echo"), np.ones((1, 4)))
        small.stages["gather"].refuse = True
        with pytest.raises(BackendError, match="gather is refused"):
            small.frame(np.full(4, 2, np.float32), cold=True)
        for name in ("class_logits", "echo", "next_memory", "spread"):
            with pytest.raises(BackendError, match=f"{name} is not there"):
                small.runner.download(name)
        small.stages["gather"].refuse = False
        small.check(np.full(4, 3, np.float32), cold=True)

    def test_a_refusal_is_not_captured(self, small: Small) -> None:
        xs = values(3)
        small.runner.upload("weights", weights(4))
        small.check(next(xs), cold=True)
        small.check(next(xs))
        small.check(next(xs))
        small.stages["spread"].refuse = True
        with pytest.raises(BackendError, match="spread is refused"):
            small.frame(next(xs))
        assert small.runner.captured == 0
        small.stages["spread"].refuse = False
        small.check(next(xs), cold=True)
        small.check(next(xs))
        assert small.runner.captured == 1

    def test_at_load(self, sessions: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> None:
            raise BackendError("no such tensors")

        monkeypatch.setattr(HostStage, "bind", refused)
        with pytest.raises(BackendError, match="no such tensors"):
            Small(sessions)


class TestTimed:
    def test_every_stage_is_waited_for(self, sessions: dict[str, Any]) -> None:
        small = Small(sessions, timed=True)
        assert not small.runner.asynchronous
        assert small.runner.stage_ms == {}
        small.device.counts.clear()
        small.check(np.ones(4, np.float32), cold=True)
        assert small.runner.stage_ms.keys() == set(COLD)
        for x in zip(range(4), values(4), strict=False):
            small.check(x[1])
        assert small.runner.stage_ms.keys() == set(WARM)
        assert all(0 <= ms < 10_000 for ms in small.runner.stage_ms.values())
        assert small.device.counts["capture"] == 0
        assert small.runner.captured == 0

"""What is added to Map-SM's scores so that background patches are let in."""

import dataclasses
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from vpp_deploy.errors import BackendError
from vpp_deploy.runtime.exploration import (
    Exploration,
    Lattice,
    RankNoise,
    parse_exploration,
    suited_exploration,
)
from vpp_deploy.runtime.inputs import StepInputs
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.stream import ResetPolicy, Stream
from vpp_deploy.runtime.tracker import Tracker
from vpp_deploy.specs import ColdStart, PipelineSpec, StageSpec, TensorSpec
from vpp_deploy.video.resize import plan_for_input
from vpp_deploy.video.source import Frame

GRID = (9, 14)


@pytest.mark.parametrize("period", [2, 3, 4, 6, 7, 16, 20, 200])
def test_a_lattice_puts_every_patch_first_once_in_a_period(period: int) -> None:
    biases = [Lattice(period).bias(5 + frame, GRID, GRID) for frame in range(period)]
    assert {b.shape for b in biases} == {(GRID[0] * GRID[1],)}
    np.testing.assert_array_equal(np.sum([b > 0 for b in biases], axis=0), 1)


@pytest.mark.parametrize("period", [4, 12, 16])
def test_a_lattice_takes_the_same_share_of_every_frame_and_lies_all_over_it(period: int) -> None:
    for frame in range(period):
        first = (Lattice(period).bias(frame, GRID, GRID) > 0).reshape(GRID)
        assert abs(first.mean() - 1 / period) < 0.03
        quarters = (first[:5, :7], first[:5, 7:], first[4:, :7], first[4:, 7:])
        assert all(quarter.any() for quarter in quarters)


def test_a_lattice_wastes_nothing_on_padding() -> None:
    for frame in range(16):
        first = (Lattice().bias(frame, GRID, (6, 14)) > 0).reshape(GRID)
        assert not first[6:].any()


def test_noise_follows_from_seed_and_frame() -> None:
    one, same = (RankNoise(3).bias(7, GRID, GRID) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    others = [RankNoise(4).bias(7, GRID, GRID), RankNoise(3).bias(8, GRID, GRID)]
    assert all((one != other).all() for other in others)
    many = np.concatenate([RankNoise(0).bias(n, (60, 60), (60, 60)) for n in range(10)])
    # The difference of two Gumbel variables, divided by the published temperature of 10.
    assert np.std(many) == pytest.approx(0.1 * np.pi / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("text", ["none", "noise:0", "noise:12", "lattice:2", "lattice:30"])
def test_written_as_it_is_read(text: str) -> None:
    explored = parse_exploration(text)
    assert text == ("none" if explored is None else str(explored))


def test_defaults() -> None:
    assert parse_exploration("noise") == RankNoise(0)
    assert parse_exploration("lattice") == Lattice()


@pytest.mark.parametrize(
    "text",
    ["", "None", "noise:", "noise:-1", "lattice:1", "lattice:1001", "lattice:2.5", "lattice:x"],
)
def test_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="expected none, noise"):
        parse_exploration(text)


@pytest.mark.parametrize(("policy", "number"), [(RankNoise, -1), (Lattice, 1), (Lattice, 1001)])
def test_nor_from_python(policy: type[RankNoise | Lattice], number: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        policy(number)


class Pruned:
    """As much of a runner as is asked before the first frame: 30 of 96 tokens in blocks 1-2."""

    batch = 1
    spec = PipelineSpec(
        (
            StageSpec(
                "selector",
                (
                    TensorSpec("frames", "uint8", (1, 128, 192, 3)),
                    TensorSpec("track_queries", "float32", (1, 8, 16)),
                    TensorSpec("rank_noise", "float32", (1, 96)),
                ),
                (TensorSpec("kept_1_2", "int64", (1, 30)),),
            ),
        ),
        (),
        ColdStart(("selector",), "kept_1_2", 96),
    )

    def __init__(self) -> None:
        self.uploaded: dict[str, NDArray[np.generic]] = {}

    def upload(self, name: str, value: NDArray[np.generic]) -> None:
        self.uploaded[name] = value.copy()


def with_budget(tokens: int) -> Pruned:
    (stage,) = Pruned.spec.stages
    outputs = (TensorSpec("kept_1_2", "int64", (1, tokens)),)
    runner = Pruned()
    runner.spec = dataclasses.replace(
        Pruned.spec, stages=(dataclasses.replace(stage, outputs=outputs),)
    )
    return runner


@pytest.mark.parametrize(("budget", "suited"), [(96, RankNoise(0)), (1, RankNoise(0)), (-1, None)])
def test_unless_asked_budgets_have_noise(budget: int, suited: RankNoise | None) -> None:
    spec = with_budget(budget).spec
    assert suited_exploration(spec) == suited
    assert suited_exploration(dataclasses.replace(spec, cold_start=None)) is None


# A frame may take more than one patch in `period`: 7, where 96 / 16 is 6.
@pytest.mark.parametrize(("period", "room"), [(3, 32), (4, 24), (16, 7)])
def test_a_lattice_that_the_budget_has_no_room_for(period: int, room: int) -> None:
    lattice = Lattice(period)
    taken = [int((lattice.bias(t, (8, 12), (8, 12)) > 0).sum()) for t in range(period)]
    assert max(taken) == room
    StepInputs(cast(PipelineRunner, with_budget(room)), lattice)
    with pytest.raises(BackendError, match=f"runs {room - 1} in blocks 1-2; take a longer period"):
        StepInputs(cast(PipelineRunner, with_budget(room - 1)), lattice)


@pytest.mark.parametrize("policy", [RankNoise(3), Lattice(4)])
def test_a_frame_is_explored_by_its_number_and_where_it_lies(policy: Exploration) -> None:
    runner = Pruned()
    inputs = StepInputs(cast(PipelineRunner, runner), policy)
    stream = Stream(Tracker(8, 16), ResetPolicy())
    frame = Frame(0, None, np.zeros((32, 96, 3), np.uint8))
    plan = plan_for_input(32, 96, inputs.size)
    assert plan.resized == (64, 192)  # 4 rows and 12 columns of patches, of 8 and 12
    for number in range(2):
        stream.meet(frame, plan, inputs.put(0, frame.rgb, plan))
        inputs.upload([stream], [0])
        expected = policy.bias(number, (8, 12), (4, 12))
        np.testing.assert_array_equal(runner.uploaded["rank_noise"], expected[None])
        stream.passed()

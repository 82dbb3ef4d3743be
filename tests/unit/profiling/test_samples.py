"""Percentiles, ratios and shares of made-up times."""

import math
import sys

import numpy as np
import pytest

from tests.unit.profiling.made import model, samples
from vpp_deploy.profiling.ratios import compare, parts_of, per_second
from vpp_deploy.profiling.samples import Samples, spread


def test_first_frames_are_apart() -> None:
    values = np.array([500.0, *range(1, 101)])
    first = np.arange(101) == 0
    seen = spread(values, first)
    assert (seen.first, seen.max, seen.mean) == (500, 100, 50.5)
    assert seen.p50 == 50.5
    assert 90 <= seen.p90 <= 91
    assert 99 <= seen.p99 <= 100


def test_a_stage_that_did_not_run() -> None:
    made = samples({"selector": [math.nan, 2, 4], "trunk": [9, 5, 5]})
    seen = spread(made.stage_ms("selector"), made.first)
    assert math.isnan(seen.first)
    assert seen.p50 == 3
    assert made.sum_ms(("selector", "trunk")).tolist() == [9, 7, 9]
    assert np.isnan(made.stage_ms("none of them")).all()


def test_nothing_but_first_frames() -> None:
    seen = spread(np.array([3.0, 5.0]), np.array([True, True]))
    assert seen.first == 4
    assert math.isnan(seen.p50)
    assert math.isnan(seen.max)


def test_a_stage_nobody_announced() -> None:
    made = Samples(("trunk",))
    made.add(3, {"trunk": 2}, True, {})
    made.add(4, {"trunk": 2, "late": 1}, False, {})
    made.add(4, {"trunk": 2}, False, {})
    np.testing.assert_array_equal(made.stage_ms("late"), [np.nan, 1, np.nan])
    assert made.stages == ("trunk", "late")


def test_a_frame_costs_a_few_bytes() -> None:
    made = Samples(("resize", "upload", "trunk"))
    for i in range(10_000):
        made.add(1.0, {"resize": 1.0, "trunk": 1.0}, i == 0, {"kept": 5})
    held = sum(sys.getsizeof(column) for column in vars(made).values())
    held += sum(sys.getsizeof(c) for table in (made._stages, made._kept) for c in table.values())
    assert held < 10_000 * 100


def test_parts_and_sums() -> None:
    parts = {part.part: part for part in parts_of(model())}
    assert list(parts) == [
        *("resize", "trunk", "head", "tracking"),
        *("backbone", "all graphs", "whole frame"),
    ]
    assert parts["trunk"].ms.p50 == 50
    assert parts["trunk"].gmacs_per_s == pytest.approx(20)
    assert parts["backbone"].macs == 1_000_000_000
    assert parts["all graphs"].ms.p50 == 150
    assert parts["all graphs"].macs == parts["whole frame"].macs == 3_000_000_000
    assert parts["whole frame"].ms.p50 == 154
    assert parts["resize"].macs is None
    assert math.isnan(parts["resize"].gmacs_per_s)
    assert per_second(model()) == pytest.approx(1000 / 154)


def test_ratios_are_of_the_same_frame() -> None:
    """A machine that slows down by 10 changes no ratio."""
    dense, pruned = model(trunk_ms=(100, 40, 400, 60)), model("p", (100, 30, 300, 45), 500_000_000)
    ratios = {ratio.part: ratio for ratio in compare(dense, pruned)}
    assert ratios["trunk"].latency == pytest.approx(0.75)
    assert ratios["trunk"].operations == 0.5
    assert ratios["trunk"].came_true == pytest.approx(0.5)
    assert ratios["head"].latency == 1
    assert math.isnan(ratios["head"].came_true)
    assert math.isnan(ratios["resize"].operations)


def test_ratios_of_a_batch_are_for_one_stream() -> None:
    one, four = model(), model("four", (400, 80, 100, 120), 4_000_000_000, batch=4)
    ratios = {ratio.part: ratio for ratio in compare(one, four)}
    assert ratios["trunk"].latency == pytest.approx(0.5)
    assert ratios["trunk"].operations == 1


def test_operations_not_counted() -> None:
    ratios = compare(model(), model("torch", trunk_macs=None))
    assert all(math.isnan(ratio.operations) for ratio in ratios)

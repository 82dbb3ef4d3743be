import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.video.synthetic import picture
from vpp_deploy.video.resize import ResizePlan, plan_for_input, plan_published, resize_frame


@pytest.mark.parametrize(
    ("frame", "resized", "padded"),
    [
        ((720, 1280), (540, 960), (544, 960)),
        ((1080, 1920), (540, 960), (544, 960)),
        ((1280, 720), (960, 540), (960, 544)),  # portrait
        ((272, 640), (408, 960), (416, 960)),  # enlarged
        ((144, 176), (785, 960), (800, 960)),  # 785.45 rounds down
        ((500, 500), (960, 960), (960, 960)),
        ((333, 501), (638, 960), (640, 960)),  # 638.08
        ((1, 4000), (1, 960), (32, 960)),  # 0.24 of a row is still one
    ],
)
def test_published_plan(
    frame: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert plan_published(*frame) == ResizePlan(frame, resized, padded, published=True)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_published_plan_fits_for_every_size(height: int, width: int) -> None:
    plan = plan_published(height, width)
    assert max(plan.resized) == 960
    for resized, padded in zip(plan.resized, plan.padded, strict=True):
        assert padded % 32 == 0
        assert 0 <= padded - resized < 32


@pytest.mark.parametrize(
    ("frame", "input_size"),
    [((720, 1280), (544, 960)), ((128, 160), (128, 160)), ((1280, 720), (960, 544))],
)
def test_input_that_the_published_rule_reaches(
    frame: tuple[int, int], input_size: tuple[int, int]
) -> None:
    plan = plan_for_input(*frame, input_size)
    assert plan == plan_published(*frame, long_side=max(input_size))
    assert plan.padded == input_size


@pytest.mark.parametrize(
    ("frame", "resized"),
    [
        ((1280, 720), (544, 306)),  # portrait into landscape
        ((272, 640), (408, 960)),  # wider than the input
        ((500, 500), (544, 544)),
        ((1000, 1765), (544, 960)),  # scale 0.543909: 543.9 and 960
    ],
)
def test_letterbox_into_another_shape(frame: tuple[int, int], resized: tuple[int, int]) -> None:
    plan = plan_for_input(*frame, (544, 960))
    assert plan.padded == (544, 960)
    assert plan.resized == resized


def test_letterbox_says_so() -> None:
    assert not plan_for_input(1280, 720, (544, 960)).published
    assert plan_for_input(720, 1280, (544, 960)).published


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_letterbox_touches_one_side_and_overflows_none(height: int, width: int) -> None:
    plan = plan_for_input(height, width, (544, 960))
    assert 1 <= plan.resized[0] <= 544
    assert 1 <= plan.resized[1] <= 960
    assert plan.resized[0] == 544 or plan.resized[1] == 960


def test_enlarging_gives_hand_computed_values() -> None:
    # Pixel centres: output x lies at (x + 0.5) / 2 - 0.5 = -0.25, 0.25, 0.75, 1.25 of the input.
    row = np.array([[0, 100]], np.uint8)
    frame = np.repeat(row[..., None], 3, axis=2)
    plan = ResizePlan((1, 2), (1, 4), (1, 4), published=True)
    assert resize_frame(frame, plan)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_shrinking_gives_hand_computed_values() -> None:
    # A factor of two averages 2 x 2 pixels.
    frame = np.zeros((2, 4, 3), np.uint8)
    frame[..., 0] = [[0, 10, 100, 200], [20, 30, 40, 60]]
    frame[..., 2] = 7
    resized = resize_frame(frame, ResizePlan((2, 4), (1, 2), (1, 2), published=True))
    assert resized.tolist() == [[[15, 0, 7], [100, 0, 7]]]


def test_shrinking_does_not_smooth() -> None:
    # 5 -> 2: centres 0.75 and 3.25 between two neighbours each, whatever lies elsewhere.
    row = np.array([[0, 100, 255, 40, 80]], np.uint8)
    frame = np.repeat(row[..., None], 3, axis=2)
    resized = resize_frame(frame, ResizePlan((1, 5), (1, 2), (1, 2), published=True))
    assert resized[0, :, 0].tolist() == [75, 50]


def test_equal_sizes_copy_the_frame() -> None:
    frame = picture(64, 96)
    resized = resize_frame(frame, plan_for_input(64, 96, (64, 96)))
    assert np.array_equal(resized, frame)
    assert not np.shares_memory(resized, frame)


def test_result_is_in_the_corner_and_the_padding_is_zero() -> None:
    frame = picture(90, 160)
    plan = plan_published(90, 160, long_side=128)
    out = np.full((96, 128, 3), 9, np.uint8)
    assert resize_frame(frame, plan, out) is out
    assert plan.resized == (72, 128)
    assert not out[72:].any()
    assert np.array_equal(out, resize_frame(frame, plan))
    assert out[:72].mean() == pytest.approx(frame.mean(), abs=1)


def test_padding_on_the_right_is_zero() -> None:
    out = resize_frame(picture(160, 90), plan_published(160, 90, long_side=128))
    assert out.shape == (128, 96, 3)
    assert not out[:, 72:].any()
    assert out[:, :72].any()


def test_channel_order_and_memory_layout_do_not_matter() -> None:
    frame = picture(90, 160)
    plan = plan_published(90, 160, long_side=96)
    expected = resize_frame(frame, plan)
    assert np.array_equal(resize_frame(frame[..., ::-1], plan)[..., ::-1], expected)
    assert np.array_equal(resize_frame(np.asfortranarray(frame), plan), expected)


def test_frame_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frame has shape \(10, 20, 3\)"):
        resize_frame(np.zeros((10, 20, 3), np.uint8), plan_published(20, 10))


def test_buffer_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        resize_frame(
            picture(90, 160), plan_published(90, 160), out=np.zeros((544, 960, 3), np.float32)
        )

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.video.synthetic import picture
from vpp_deploy.results import Tracks
from vpp_deploy.video.draw import draw_tracks, track_colour

CLASSES = ("person", "flying_disc")


def rectangles(
    height: int, width: int, *boxes: tuple[int, int, int, int], ids: list[int] | None = None
) -> Tracks:
    masks: NDArray[np.bool_] = np.zeros((len(boxes), height, width), np.bool_)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return Tracks(
        ids=np.array(ids or range(len(boxes)), np.int64),
        labels=np.arange(len(boxes), dtype=np.int64) % 2,
        scores=np.linspace(0.9, 0.4, len(boxes), dtype=np.float32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        masks=masks,
        query_ids=np.zeros(len(boxes), np.int64),
    )


def test_colours_are_stable_and_far_apart() -> None:
    assert track_colour(7) == track_colour(7)
    colours = np.array([track_colour(i) for i in range(12)], float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 45


def test_a_track_keeps_its_colour_whatever_else_is_there() -> None:
    black = np.zeros((270, 480, 3), np.uint8)
    alone = draw_tracks(black, rectangles(270, 480, (300, 150, 400, 250), ids=[7]), CLASSES)
    together = draw_tracks(
        black, rectangles(270, 480, (10, 10, 60, 60), (300, 150, 400, 250), ids=[2, 7]), CLASSES
    )
    assert np.array_equal(alone[200, 350], together[200, 350])
    assert np.abs(alone[200, 350] - 0.45 * np.array(track_colour(7))).max() <= 1


def test_the_frame_is_left_as_it_is_and_the_rest_of_the_picture_too() -> None:
    rgb = picture(270, 480)
    before = rgb.copy()
    drawn = draw_tracks(rgb, rectangles(270, 480, (100, 100, 200, 200)), CLASSES)
    assert np.array_equal(rgb, before)
    assert drawn.shape == rgb.shape
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[210:], rgb[210:])
    assert np.array_equal(drawn[:, 320:], rgb[:, 320:])
    assert not np.array_equal(drawn[150, 150], rgb[150, 150])


def test_no_tracks_and_empty_masks_draw_nothing() -> None:
    rgb = picture(90, 160)
    assert np.array_equal(draw_tracks(rgb, rectangles(90, 160), CLASSES), rgb)
    empty = rectangles(90, 160, (0, 0, 0, 0))
    assert np.array_equal(draw_tracks(rgb, empty, CLASSES), rgb)


@pytest.mark.parametrize("size", [(272, 640), (1080, 1920), (144, 176), (12, 20)])
@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right", "all"])
def test_labels_stay_within_the_picture(size: tuple[int, int], corner: str) -> None:
    height, width = size
    x1, x2 = (width - 4, width) if "right" in corner else (0, 4)
    y1, y2 = (height - 4, height) if "bottom" in corner else (0, 4)
    box = (0, 0, width, height) if corner == "all" else (x1, y1, x2, y2)
    drawn = draw_tracks(np.zeros((*size, 3), np.uint8), rectangles(*size, box), CLASSES)
    plate = (drawn == track_colour(0)).all(axis=-1)
    assert plate.sum() >= 0.5 * min(8 * 40, height * width)  # it is not cut away


def test_lines_and_letters_grow_with_the_picture() -> None:
    def plate_height(height: int, width: int) -> int:
        box = (width // 2, height // 2, width // 2 + 30, height // 2 + 30)
        drawn = draw_tracks(
            np.zeros((height, width, 3), np.uint8), rectangles(height, width, box), CLASSES
        )
        return int((drawn[: height // 2] == track_colour(0)).all(axis=-1).any(axis=1).sum())

    assert 10 <= plate_height(272, 640) <= 24
    assert 22 <= plate_height(1080, 1920) <= 45

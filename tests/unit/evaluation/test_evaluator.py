"""The evaluator's figures: of tracks whose figures are known, and against TrackEval's."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from tests.unit.evaluation.made_dataset import SIZE, Boxes, dataset, masks
from vpp_deploy.errors import BackendError
from vpp_deploy.evaluation.dataset import Dataset
from vpp_deploy.evaluation.evaluator import Evaluator, Figures, FoundTrack
from vpp_deploy.video.frames_jsonl import Rle, encode_masks

CLASSES = ("cat", "dog", "owl")
CAT, DOG, OWL = 11, 12, 13
LEFT, RIGHT = (1, 1, 9, 6), (2, 9, 10, 15)

PERFECT = Figures(1.0, 1.0, 1.0, 1.0, 1.0)
ZERO = Figures(0.0, 0.0, 0.0, 0.0, 0.0)
UNKNOWN = Figures(None, None, None, None, None)


def found(
    video: int, category: int, boxes: Boxes | Sequence[Rle | None], score: float = 0.9
) -> FoundTrack:
    """A track of rectangles, or of masks."""
    given: list[Any] = list(boxes)
    rles = given if any(isinstance(one, dict) for one in given) else masks(given)
    return FoundTrack(video_id=video, category_id=category, score=score, segmentations=list(rles))


ONE_CAT = dataset([4], CLASSES, [(0, "cat", masks([LEFT] * 4))])


def close(figures: Figures) -> object:
    return pytest.approx(astuple(figures), abs=1e-9)


def test_what_is_labelled_is_worth_everything() -> None:
    truth = dataset(
        [4, 2],
        CLASSES,
        [(0, "cat", masks([LEFT, None, RIGHT, LEFT])), (1, "dog", masks([LEFT] * 2))],
    )
    tracks = [found(7, CAT, [LEFT, None, RIGHT, LEFT]), found(8, DOG, [LEFT] * 2)]
    evaluator = Evaluator(truth, tracks)
    assert astuple(evaluator.figures()) == close(PERFECT)
    assert astuple(evaluator.figures(categories=[CAT])) == close(PERFECT)
    assert evaluator.figures(categories=[OWL]) == UNKNOWN
    assert astuple(evaluator.figures(videos=[8])) == close(PERFECT)
    assert evaluator.figures(videos=[8], categories=[CAT]) == UNKNOWN


def test_what_was_given_stays_as_it_is() -> None:
    track = found(7, CAT, [LEFT] * 4)
    before = dict(track)
    Evaluator(ONE_CAT, [track]).figures()
    assert track == before


def test_nothing_found_is_worth_nothing() -> None:
    evaluator = Evaluator(ONE_CAT, [])
    assert evaluator.figures() == ZERO
    assert evaluator.figures(categories=[DOG]) == UNKNOWN


def test_another_class_is_worth_nothing() -> None:
    evaluator = Evaluator(ONE_CAT, [found(7, DOG, [LEFT] * 4)])
    assert evaluator.figures() == ZERO


def test_a_second_class_that_is_missed_halves_it() -> None:
    truth = dataset([2], CLASSES, [(0, "cat", masks([LEFT] * 2)), (0, "dog", masks([RIGHT] * 2))])
    figures = Evaluator(truth, [found(7, CAT, [LEFT] * 2)]).figures()
    assert astuple(figures) == close(Figures(0.5, 0.5, 0.5, 0.5, 0.5))


def test_half_of_the_frames_is_an_overlap_of_one_half() -> None:
    figures = Evaluator(ONE_CAT, [found(7, CAT, [LEFT, LEFT, None, None])]).figures()
    assert astuple(figures) == close(Figures(0.1, 1.0, 0.0, 0.1, 0.1))


@pytest.mark.parametrize(("score_of_rest", "share"), [(0.1, 1.0), (0.95, 0.5)])
def test_an_identity_that_switches_is_two_tracks(score_of_rest: float, share: float) -> None:
    """Three of four frames pass six of the ten thresholds; a better rest is a false alarm first."""
    three, one = [LEFT, LEFT, LEFT, None], [None, None, None, LEFT]
    tracks = [found(7, CAT, three), found(7, CAT, one, score_of_rest)]
    figures = Evaluator(ONE_CAT, tracks).figures()
    best_alone = 0.6 if score_of_rest < 0.9 else 0.0
    assert astuple(figures) == close(Figures(0.6 * share, share, share, best_alone, 0.6))


def test_the_best_track_of_two_of_a_class_is_half_of_the_recall() -> None:
    truth = dataset([2], CLASSES, [(0, "cat", masks([LEFT] * 2)), (0, "cat", masks([RIGHT] * 2))])
    tracks = [found(7, CAT, [LEFT] * 2, 0.3), found(7, CAT, [RIGHT] * 2, 0.8)]
    assert astuple(Evaluator(truth, tracks).figures()) == close(Figures(1, 1, 1, 0.5, 1))


def test_crowds_count_neither_way() -> None:
    truth = dataset([2], CLASSES, [(0, "cat", masks([LEFT] * 2)), (0, "cat", masks([RIGHT] * 2))])
    cat, crowd = truth.instances
    truth = dataclasses.replace(truth, instances=(cat, dataclasses.replace(crowd, is_crowd=True)))
    missed = Evaluator(truth, [found(7, CAT, [LEFT] * 2, 0.3)]).figures()
    assert astuple(missed) == close(PERFECT)
    tracks = [found(7, CAT, [LEFT] * 2, 0.3), found(7, CAT, [RIGHT] * 2, 0.8)]
    assert Evaluator(truth, tracks).figures().ap == pytest.approx(1.0)


def test_a_missing_evaluator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)  # as find_spec sees what is not installed
    with pytest.raises(BackendError, match=r"install vpp-deploy\[eval\]"):
        Evaluator(ONE_CAT, [])


def noisy(rng: np.random.Generator, num_frames: int) -> list[Rle | None]:
    """A rectangle that walks, with ragged edges; now and then out of sight."""
    drawn = np.zeros((num_frames, *SIZE), np.bool_)
    top, left = int(rng.integers(0, SIZE[0] - 6)), int(rng.integers(0, SIZE[1] - 6))
    for mask in drawn:
        mask[top : top + 6, left : left + 6] = rng.random((6, 6)) < 0.95
        top = int(np.clip(top + rng.integers(-1, 2), 0, SIZE[0] - 6))
        left = int(np.clip(left + rng.integers(-1, 2), 0, SIZE[1] - 6))
    hidden = rng.random(num_frames) < 0.2
    hidden[rng.integers(num_frames)] = False
    rles = encode_masks(drawn)
    return [None if gone else rle for gone, rle in zip(hidden, rles, strict=True)]


def resembling(rng: np.random.Generator, truth: Sequence[Rle | None]) -> list[Rle | None]:
    """A track that finds some frames and confuses others."""
    other = noisy(rng, len(truth))
    shares = rng.choice([0.0, 0.1, 0.25, 0.4])
    return [b if rng.random() < shares else a for a, b in zip(truth, other, strict=True)]


def random_case(seed: int) -> tuple[Dataset, list[FoundTrack]]:
    """Videos with instances of some classes, tracks like them, and others; scores with ties."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, 4).tolist()
    instances = [
        (video, str(rng.choice(CLASSES[:2])), noisy(rng, lengths[video]))
        for video in range(4)
        for _ in range(rng.integers(0, 4))
    ]
    tracks = []
    for video, name, truth in instances:
        for _ in range(rng.integers(0, 3)):
            label = name if rng.random() < 0.8 else str(rng.choice(CLASSES))
            score = round(float(rng.random()), 1)
            like = resembling(rng, truth)
            tracks.append(found(7 + video, 11 + CLASSES.index(label), like, score))
    for video in range(4):
        for _ in range(rng.integers(0, 60)):
            score = round(float(rng.random()), 1)
            tracks.append(
                found(7 + video, int(rng.integers(11, 14)), noisy(rng, lengths[video]), score)
            )
    return dataset(lengths, CLASSES, instances), tracks


def by_trackeval(
    trackeval: Any, truth: Dataset, tracks: Sequence[FoundTrack], videos: Sequence[int]
) -> Figures:
    """The same by TrackEval's TrackMAP, as its YouTubeVIS class feeds it; ids count from 1, as the
    matching takes 0 for none."""
    thresholds = np.linspace(0.5, 0.95, 10)
    means = {}
    for most in (1, 10, 100):
        metric = trackeval.metrics.TrackMAP(
            {
                "USE_AREA_RANGES": False,
                "USE_TIME_RANGES": False,
                "IOU_THRESHOLDS": thresholds,
                "MAX_DETECTIONS": most,
                "PRINT_CONFIG": False,
            }
        )
        of_class = {}
        for category in truth.categories:
            of_video = {}
            for video in videos:
                labelled = [
                    one.masks
                    for one in truth.instances
                    if (one.video_id, one.category_id) == (video, category)
                ]
                own = [
                    one
                    for one in tracks
                    if (one["video_id"], one["category_id"]) == (video, category)
                ]
                own.sort(key=lambda one: -one["score"])
                of_video[video] = metric.eval_sequence(
                    {
                        "gt_track_ids": list(range(1, len(labelled) + 1)),
                        "gt_tracks": [dict(enumerate(one)) for one in labelled],
                        "dt_track_ids": list(range(1, len(own) + 1)),
                        "dt_tracks": [dict(enumerate(one["segmentations"])) for one in own],
                        "dt_track_scores": [one["score"] for one in own],
                        "iou_type": "mask",
                    }
                )
            of_class[category] = metric.combine_sequences(of_video)
        means[most] = metric.combine_classes_class_averaged(of_class)
    precision = means[100]["AP_all"]
    figures = (
        precision.mean(),
        precision[0],
        precision[5],
        means[1]["AR_all"].mean(),
        means[10]["AR_all"].mean(),
    )
    return Figures(*(None if value == -1 else float(value) for value in figures))


@pytest.mark.parametrize("seed", range(12))
def test_trackeval_says_the_same(seed: int) -> None:
    """Of random tracks, many of equal scores: for all videos, and for each."""
    trackeval = pytest.importorskip(
        "trackeval", reason="install it without what it requires: it brings a second OpenCV"
    )
    truth, tracks = random_case(seed)
    evaluator = Evaluator(truth, tracks)
    all_videos = [video.id for video in truth.videos]
    whole = evaluator.figures()
    assert whole.ap is not None
    assert 0 < whole.ap < 1
    for videos in (all_videos, *([video] for video in all_videos)):
        expected = by_trackeval(trackeval, truth, tracks, videos)
        assert astuple(evaluator.figures(videos=videos)) == close(expected), videos

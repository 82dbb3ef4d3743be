"""detect() against the recordings, and against all pairs and all masks computed in torch."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from tests.parity_data import RECORDINGS, load_recording, mask_logits_of, num_frames
from vpp_deploy.errors import RecipeError
from vpp_deploy.runtime.detections import Detections, Size
from vpp_deploy.runtime.postprocess import (
    PostprocessSettings,
    detect,
    score_pairs,
    select_pairs,
)

LOGIT_TOLERANCE = 1e-4
SCORE_TOLERANCE = 1e-6


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_detections(name: str) -> None:
    recording = load_recording(name)
    size = (128, 160)
    for t in range(num_frames(recording)):
        valid = np.ones(len(recording[f"f{t}/track_query_ids_in"]), np.bool_)
        pairs = select_pairs(recording[f"f{t}/cls_last_layer"], valid, PostprocessSettings())
        rows, row_of_pair = np.unique(pairs.query_ids, return_inverse=True)
        mask_logits = mask_logits_of(recording, t, rows)
        found = score_pairs(pairs, mask_logits, row_of_pair, (size, size, size))

        np.testing.assert_array_equal(found.query_ids, recording[f"f{t}/det_query_ids"])
        np.testing.assert_array_equal(found.labels, recording[f"f{t}/det_labels"])
        np.testing.assert_array_equal(found.boxes, recording[f"f{t}/det_bboxes"])
        areas = found.pixels(range(len(found))).sum((1, 2))
        np.testing.assert_array_equal(areas, recording[f"f{t}/det_areas"])
        np.testing.assert_allclose(found.scores, recording[f"f{t}/det_scores"], atol=1e-6)


class Case(NamedTuple):
    """Inputs of detect()."""

    class_logits: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    track_valid: NDArray[np.bool_]
    input_size: Size
    resized: Size
    frame_size: Size


class Candidate(NamedTuple):
    """A pair as the definition scores it, however bad it is."""

    query: int
    label: int
    class_score: float
    score: float
    threshold: float
    logits: NDArray[np.float64]


def all_candidates(case: Case) -> list[Candidate]:
    """MODEL.md 4 word for word: every pair, every mask, at full size and in float64."""
    num_static = len(case.class_logits) - len(case.track_valid)
    num_queries = num_static + int(case.track_valid.sum())
    logits = torch.from_numpy(case.mask_logits[:num_queries]).double()[None]
    logits = F.interpolate(logits, case.input_size, mode="bilinear", align_corners=False)
    logits = logits[..., : case.resized[0], : case.resized[1]]
    logits = F.interpolate(logits, case.frame_size, mode="bilinear", align_corners=False)[0]
    inside = logits > 0
    mask_scores = (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)

    class_logits = torch.from_numpy(case.class_logits[:num_queries]).double()
    class_scores = class_logits.softmax(-1)[:, :-1]
    best = class_scores.flatten().topk(num_queries)
    return [
        Candidate(
            query=(query := index // class_scores.shape[1]),
            label=index % class_scores.shape[1],
            class_score=score,
            score=score * float(mask_scores[query]),
            threshold=0.3 if query < num_static else 0.25,
            logits=logits[query].numpy(),
        )
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def assert_matches_definition(case: Case) -> Detections:
    """Same pairs, masks, scores, boxes, save where the definition itself is on the edge."""
    found = detect(*case)
    by_pair = {
        (int(query), int(label)): i
        for i, (query, label) in enumerate(zip(found.query_ids, found.labels, strict=True))
    }
    assert len(by_pair) == len(found)
    assert np.all(np.diff(found.scores) <= 0)
    masks = found.pixels(range(len(found)))
    for candidate in all_candidates(case):
        mask = candidate.logits > 0
        uncertain = np.abs(candidate.logits) < LOGIT_TOLERANCE
        tolerance = SCORE_TOLERANCE + uncertain.sum() / max(1, mask.sum())
        i = by_pair.pop((candidate.query, candidate.label), None)
        if i is None:
            assert candidate.score <= candidate.threshold + tolerance
            continue
        assert candidate.score > candidate.threshold - tolerance
        assert found.scores[i] == pytest.approx(candidate.score, abs=tolerance)
        assert not np.any((masks[i] != mask) & ~uncertain)
        assert found.masks[i].area == masks[i].sum()
        rows, cols = np.flatnonzero(masks[i].any(1)), np.flatnonzero(masks[i].any(0))
        box = [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
        assert found.boxes[i].tolist() == box
    assert not by_pair, "pairs beyond the best"
    return found


def make_case(
    seed: int,
    *,
    input_size: Size = (64, 96),
    resized: Size | None = None,
    frame_size: Size | None = None,
    num_static: int = 12,
    num_tracks: int = 3,
    slots: int = 5,
    blob: float = 0.3,
) -> Case:
    """Random queries; each mask is a few soft blobs (`blob`: their size, as a share)."""
    rng = np.random.default_rng(seed)
    num_queries, num_classes, depth = num_static + slots, 6, 4
    height, width = input_size[0] // 4, input_size[1] // 4
    y, x = np.mgrid[:height, :width].astype(np.float32)
    features = [
        blob * max(height, width) - np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width))
        for _ in range(depth - 1)
    ]
    features.append(rng.standard_normal((height, width)))
    class_logits = 3 * rng.standard_normal((num_queries, num_classes))
    embeds = rng.standard_normal((num_queries, depth))
    mask_logits = np.einsum("qd,dhw->qhw", embeds, np.array(features))
    mask_logits += rng.standard_normal(num_queries)[:, None, None]
    return Case(
        class_logits=class_logits.astype(np.float32),
        mask_logits=mask_logits.astype(np.float32),
        track_valid=np.arange(slots) < num_tracks,
        input_size=input_size,
        resized=resized or input_size,
        frame_size=frame_size or resized or input_size,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    input_size = tuple(32 * draw(st.integers(1, 4)) for _ in range(2))
    resized = tuple(draw(st.integers(size - 31, size)) for size in input_size)
    # Equal, a simple ratio (whose crops are small) or any size.
    frame_size = draw(
        st.one_of(
            st.just(resized),
            st.sampled_from([(4, 3), (2, 1), (1, 2), (1, 3)]).map(
                lambda ratio: tuple(max(1, size * ratio[0] // ratio[1]) for size in resized)
            ),
            st.tuples(st.integers(1, 150), st.integers(1, 150)),
        )
    )
    slots = draw(st.integers(0, 5))
    return make_case(
        draw(st.integers(0, 2**32 - 1)),
        input_size=(input_size[0], input_size[1]),
        resized=(resized[0], resized[1]),
        frame_size=(frame_size[0], frame_size[1]),
        num_tracks=draw(st.integers(0, slots)),
        slots=slots,
        blob=draw(st.sampled_from([0.02, 0.1, 0.3, 2.0])),
    )


@settings(deadline=None, max_examples=150)
@given(cases())
def test_same_as_the_definition(case: Case) -> None:
    assert_matches_definition(case)


@pytest.mark.parametrize("blob", [0.02, 0.1, 2.0])
@pytest.mark.parametrize(
    ("input_size", "resized", "frame_size"),
    [
        ((544, 960), (540, 960), (720, 1280)),
        ((544, 960), (540, 960), (1080, 1920)),
        ((416, 960), (408, 960), (272, 640)),
        ((800, 960), (785, 960), (144, 176)),
        ((960, 544), (960, 541), (1279, 721)),
    ],
)
def test_two_step_resize_of_real_sizes(
    input_size: Size, resized: Size, frame_size: Size, blob: float
) -> None:
    case = make_case(
        1,
        input_size=input_size,
        resized=resized,
        frame_size=frame_size,
        num_static=4,
        num_tracks=1,
        slots=1,
        blob=blob,
    )
    assert len(assert_matches_definition(case)) > 0


def test_invalid_slots_take_no_part() -> None:
    with_slots = make_case(2, num_tracks=2, slots=6)
    with_slots.class_logits[-4:, 0] = 50.0
    without = with_slots._replace(
        class_logits=with_slots.class_logits[:-4],
        mask_logits=with_slots.mask_logits[:-4],
        track_valid=with_slots.track_valid[:2],
    )
    found, expected = detect(*with_slots), detect(*without)
    assert_equal(found, expected)


def assert_equal(found: Detections, expected: Detections) -> None:
    assert len(found) > 0
    np.testing.assert_array_equal(found.query_ids, expected.query_ids)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    rows = range(len(found))
    np.testing.assert_array_equal(found.pixels(rows), expected.pixels(rows))


@pytest.mark.parametrize("threads", [2, 100, None])
def test_threads_change_nothing(threads: int | None) -> None:
    case = make_case(3, input_size=(128, 160), frame_size=(300, 400))
    expected = detect(*case, PostprocessSettings(threads=1))
    assert_equal(detect(*case, PostprocessSettings(threads=threads)), expected)


@pytest.mark.parametrize("frame_size", [(2160, 3840), (1080, 5)])
def test_frames_that_are_made_in_parts(frame_size: Size) -> None:
    case = make_case(4, frame_size=frame_size, num_static=3, num_tracks=0, slots=0, blob=2.0)
    case.class_logits[:, 0] += 5
    assert len(assert_matches_definition(case)) > 0


def test_each_query_has_its_own_mask() -> None:
    case = constant_case([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], slots=0)
    case.mask_logits[:] = np.array([-1, 1, 10])[:, None, None]
    found = detect(*case)
    assert found.query_ids.tolist() == [2, 1]
    assert found.scores == pytest.approx(
        [0.7 / (1 + np.exp(-10)), 0.8 / (1 + np.exp(-1))], abs=1e-6
    )


@pytest.mark.parametrize("name", ["class_logits", "mask_logits"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error(name: str, value: float) -> None:
    case = constant_case([[0.9, 0.1], [0.2, 0.8]], slots=0)
    getattr(case, name)[0] = value
    with pytest.raises(FloatingPointError, match="hold NaN or infinity"):
        detect(*case)


def test_slots_are_filled_from_the_front() -> None:
    case = make_case(2)
    with pytest.raises(AssertionError, match="front"):
        detect(*case._replace(track_valid=np.array([True, False, True, False, False])))


def constant_case(class_scores: list[list[float]], slots: int, logit: float = 20.0) -> Case:
    """Class scores as given (the last column is the background), masks of one logit everywhere."""
    scores = np.array(class_scores, np.float32)
    return Case(
        class_logits=np.log(scores),
        mask_logits=np.full((len(scores), 8, 8), logit, np.float32),
        track_valid=np.ones(slots, np.bool_),
        input_size=(32, 32),
        resized=(30, 32),
        frame_size=(60, 64),
    )


def test_a_query_may_appear_with_several_labels() -> None:
    found = detect(*constant_case([[0.4, 0.35, 0.25], [0.05, 0.05, 0.9]], slots=0))
    assert found.query_ids.tolist() == [0, 0]
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [[0, 0, 64, 60]] * 2
    assert found.pixels([0, 1]).all()


def test_static_and_track_queries_have_their_own_thresholds() -> None:
    found = detect(*constant_case([[0.28, 0.1, 0.62], [0.28, 0.1, 0.62]], slots=1))
    assert found.query_ids.tolist() == [1]
    assert found.scores == pytest.approx([0.28], abs=1e-6)


def test_only_the_best_pairs_as_many_as_queries() -> None:
    pair_scores = [[0.32, 0.31, 0.31, 0.06], [0.33, 0.32, 0.31, 0.04]]
    found = detect(*constant_case(pair_scores, slots=0))
    assert found.scores == pytest.approx([0.33, 0.32], abs=1e-6)
    # Of equal scores the first query stays.
    assert list(zip(found.query_ids, found.labels, strict=True)) == [(1, 0), (0, 0)]


def test_a_static_pair_below_its_threshold_still_takes_a_place() -> None:
    """The cut at the best pairs comes first: 0.29 beats 0.26 to it, then fails its threshold."""
    found = detect(*constant_case([[0.29, 0.28, 0.43], [0.26, 0.1, 0.64]], slots=1))
    assert len(found) == 0


def test_no_positive_logit_gives_nothing() -> None:
    found = detect(*constant_case([[0.9, 0.1]], slots=0, logit=-1.0))
    assert len(found) == 0
    assert found.pixels([]).shape == (0, 60, 64)
    assert found.boxes.shape == (0, 4)


def test_no_candidate_gives_nothing() -> None:
    found = detect(*constant_case([[0.1, 0.9]], slots=0))
    assert len(found) == 0
    assert found.pixels([]).shape == (0, 60, 64)


def test_a_mask_in_the_padding_only_gives_nothing() -> None:
    case = constant_case([[0.9, 0.1]], slots=0)._replace(resized=(16, 32), frame_size=(32, 64))
    case.mask_logits[:] = -1
    case.mask_logits[:, 6:] = 5
    assert len(detect(*case)) == 0


def test_class_scores_are_softmax_even_of_large_logits() -> None:
    case = constant_case([[0.6, 0.4]], slots=0)
    shifted = case._replace(class_logits=case.class_logits + np.float32(500))
    np.testing.assert_allclose(detect(*shifted).scores, detect(*case).scores, atol=1e-4)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_thresholds_are_scores(value: float) -> None:
    with pytest.raises(RecipeError, match="track_threshold"):
        PostprocessSettings(track_threshold=value)


def test_there_is_a_thread() -> None:
    with pytest.raises(RecipeError, match="threads is 0; give 1 or more"):
        PostprocessSettings(threads=0)

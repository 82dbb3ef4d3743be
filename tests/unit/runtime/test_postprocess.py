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
from vpp_deploy.results import Detections
from vpp_deploy.runtime.postprocess import (
    PostprocessSettings,
    Size,
    detect,
    score_pairs,
    select_pairs,
)

LOGIT_TOLERANCE = 1e-4
SCORE_TOLERANCE = 1e-5


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
        np.testing.assert_array_equal(found.masks.sum((1, 2)), recording[f"f{t}/det_areas"])
        np.testing.assert_allclose(found.scores, recording[f"f{t}/det_scores"], atol=1e-6)


class Case(NamedTuple):
    """Inputs of detect()."""

    class_logits: NDArray[np.float32]
    mask_embeds: NDArray[np.float32]
    mask_features: NDArray[np.float32]
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
    features = torch.from_numpy(case.mask_features).double()
    embeds = torch.from_numpy(case.mask_embeds[:num_queries]).double()
    logits = torch.einsum("qd,dhw->qhw", embeds, features)[None]
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
        assert not np.any((found.masks[i] != mask) & ~uncertain)
        rows, cols = np.flatnonzero(found.masks[i].any(1)), np.flatnonzero(found.masks[i].any(0))
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
    return Case(
        class_logits=(3 * rng.standard_normal((num_queries, num_classes))).astype(np.float32),
        mask_embeds=rng.standard_normal((num_queries, depth)).astype(np.float32),
        mask_features=np.array(features, np.float32),
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
        mask_embeds=with_slots.mask_embeds[:-4],
        track_valid=with_slots.track_valid[:2],
    )
    found, expected = detect(*with_slots), detect(*without)
    np.testing.assert_array_equal(found.query_ids, expected.query_ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.masks, expected.masks)


def test_slots_are_filled_from_the_front() -> None:
    case = make_case(2)
    with pytest.raises(AssertionError, match="front"):
        detect(*case._replace(track_valid=np.array([True, False, True, False, False])))


def constant_case(class_scores: list[list[float]], slots: int, logit: float = 20.0) -> Case:
    """Class scores as given (the last column is the background), masks of one logit everywhere."""
    scores = np.array(class_scores, np.float32)
    return Case(
        class_logits=np.log(scores),
        mask_embeds=np.ones((len(scores), 1), np.float32),
        mask_features=np.full((1, 8, 8), logit, np.float32),
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
    assert found.masks.all()


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
    assert found.masks.shape == (0, 60, 64)
    assert found.boxes.shape == (0, 4)


def test_no_candidate_gives_nothing() -> None:
    found = detect(*constant_case([[0.1, 0.9]], slots=0))
    assert len(found) == 0
    assert found.masks.shape == (0, 60, 64)


def test_a_mask_in_the_padding_only_gives_nothing() -> None:
    case = constant_case([[0.9, 0.1]], slots=0)._replace(resized=(16, 32), frame_size=(32, 64))
    case.mask_features[:] = -1
    case.mask_features[:, 6:] = 5
    assert len(detect(*case)) == 0


def test_class_scores_are_softmax_even_of_large_logits() -> None:
    case = constant_case([[0.6, 0.4]], slots=0)
    shifted = case._replace(class_logits=case.class_logits + np.float32(500))
    np.testing.assert_allclose(detect(*shifted).scores, detect(*case).scores, atol=1e-4)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_thresholds_are_scores(value: float) -> None:
    with pytest.raises(RecipeError, match="track_threshold"):
        PostprocessSettings(track_threshold=value)

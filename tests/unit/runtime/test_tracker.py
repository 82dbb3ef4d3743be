"""The tracker against the recordings, and in the situations that they do not contain."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch.nn import functional as F

from tests.parity_data import (
    RECORDINGS,
    Recording,
    load_log,
    load_recording,
    mask_logits_of,
    num_frames,
    unpack_masks,
)
from vpp_deploy.runtime import tracker as tracker_module
from vpp_deploy.runtime.detections import Detections, PackedMask
from vpp_deploy.runtime.tracker import MaskOverlaps, Tracker, TrackerUpdate, greedy_nms

NUM_STATIC = 10
WIDTH = 4
FRAME = (20, 100)


def recorded_detections(recording: Recording, t: int) -> Detections:
    """What the reference's tracker was given; masks again from the recorded logits."""
    query_ids = recording[f"f{t}/det_query_ids"]
    logits = torch.from_numpy(mask_logits_of(recording, t, query_ids))
    logits = F.interpolate(logits[None], (128, 160), mode="bilinear", align_corners=False)[0]
    masks = (logits > 0).numpy()
    np.testing.assert_array_equal(masks.sum((1, 2)), recording[f"f{t}/det_areas"])
    return Detections(
        query_ids,
        recording[f"f{t}/det_labels"],
        recording[f"f{t}/det_scores"],
        recording[f"f{t}/det_bboxes"],
        [PackedMask.of_pixels(mask) for mask in masks],
        (128, 160),
    )


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_tracks_and_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recording, log = load_recording(name), load_log(name)
    calls = spy_on_nms(monkeypatch)
    tracker = Tracker(slots=None)
    for t in range(num_frames(recording)):
        frame = {k.removeprefix(f"f{t}/"): v for k, v in recording.items() if f"f{t}/" in k}
        np.testing.assert_array_equal(tracker.memory.ids, frame["track_query_ids_in"])
        if len(tracker) > 0:
            np.testing.assert_array_equal(tracker.track_queries(), frame["track_queries_in"])

        calls.clear()
        update = tracker.update(t, recorded_detections(recording, t), frame["queries"])

        tracks = update.tracks
        np.testing.assert_array_equal(tracks.ids, frame["track_ids"])
        np.testing.assert_array_equal(tracks.labels, frame["track_labels"])
        np.testing.assert_array_equal(tracks.scores, frame["track_scores"])
        np.testing.assert_array_equal(tracks.boxes, frame["track_bboxes"])
        np.testing.assert_array_equal(tracks.query_ids, frame["track_query_ids"])
        masks = unpack_masks(frame["track_masks_packed"], frame["track_masks_shape"])
        np.testing.assert_array_equal(tracks.masks, masks)
        np.testing.assert_array_equal(tracker.memory.ids, frame["memory_ids"])
        np.testing.assert_array_equal(tracker.memory.queries, frame["memory_feats"])
        np.testing.assert_array_equal(tracker.memory.last_frames, frame["memory_last_frame"])
        assert tracker.next_id == frame["num_tracks"]
        assert update.dropped == ()
        assert calls == [
            {"n": call["n"], "kept": call["kept"], "thr": call["thr"]} for call in log[t]["nms"]
        ]


def spy_on_nms(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collects the NMS calls as the recordings' JSON lists them (those over nothing left out)."""
    calls: list[dict[str, Any]] = []

    def spy(
        overlaps: MaskOverlaps,
        candidates: NDArray[np.intp],
        threshold: float,
        kept: list[int] | None = None,
    ) -> list[int]:
        result = greedy_nms(overlaps, candidates, threshold, kept or [])
        total = len(candidates) + len(kept or [])
        if total > 0:
            calls.append({"n": total, "kept": len(result), "thr": threshold})
        return result

    monkeypatch.setattr(tracker_module, "greedy_nms", spy)
    return calls


def found(*instances: tuple[int, float, int, int], labels: list[int] | None = None) -> Detections:
    """Detections (query, score, left, right), best first: masks are full-height stripes."""
    num = len(instances)
    masks = np.zeros((num, *FRAME), np.bool_)
    boxes = np.zeros((num, 4), np.float32)
    for i, (_, _, left, right) in enumerate(instances):
        masks[i, :, left:right] = True
        boxes[i] = (left, 0, right, FRAME[0]) if right > left else 0
    return Detections(
        np.array([query for query, _, _, _ in instances], np.int64),
        np.array(labels or [0] * num, np.int64),
        np.array([score for _, score, _, _ in instances], np.float32),
        boxes,
        [PackedMask.of_pixels(mask) for mask in masks],
        FRAME,
    )


def track(t: int) -> int:
    """The query id of the t-th track."""
    return NUM_STATIC + t


def step(tracker: Tracker, frame: int, detections: Detections, slots: int = 0) -> TrackerUpdate:
    """Updates with queries that hold 1000 * frame + row."""
    rows = 1000 * frame + np.arange(NUM_STATIC + (slots or len(tracker)), dtype=np.float32)
    return tracker.update(frame, detections, np.repeat(rows[:, None], WIDTH, axis=1))


def carried(tracker: Tracker) -> list[float]:
    """The first value of each query that the next frame is given."""
    assert tracker.track_queries().shape == (len(tracker), WIDTH)
    return [float(query[0]) for query in tracker.track_queries()]


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(slots=None, query_width=WIDTH)


@pytest.fixture
def two_tracks(tracker: Tracker) -> Tracker:
    """Id 0 at 0-10 and id 1 at 40-50, seen in frame 0 with static queries 3 and 5."""
    step(tracker, 0, found((3, 0.9, 0, 10), (5, 0.8, 40, 50)))
    return tracker


def test_starts_with_no_tracks(tracker: Tracker) -> None:
    assert carried(tracker) == []


def test_new_and_existing(two_tracks: Tracker) -> None:
    assert carried(two_tracks) == [3, 5]
    tracks = step(
        two_tracks,
        1,
        found((track(1), 0.9, 41, 51), (2, 0.8, 80, 90), (track(0), 0.7, 1, 11), labels=[4, 5, 6]),
    ).tracks
    assert tracks.ids.tolist() == [1, 0, 2]
    assert tracks.query_ids.tolist() == [track(1), track(0), 2]
    assert tracks.labels.tolist() == [4, 6, 5]
    assert tracks.scores == pytest.approx([0.9, 0.7, 0.8])
    assert tracks.boxes[:, 0].tolist() == [41, 1, 80]
    assert two_tracks.memory.ids.tolist() == [0, 1, 2]
    assert two_tracks.memory.last_frames.tolist() == [1, 1, 1]
    assert carried(two_tracks) == [1000 + track(0), 1000 + track(1), 1002]


def test_a_weak_track_keeps_its_query_but_counts_as_seen(two_tracks: Tracker) -> None:
    step(two_tracks, 1, found((track(0), 0.3, 0, 10), (track(1), 0.29, 40, 50)))
    assert carried(two_tracks) == [1000 + track(0), 5]
    assert two_tracks.memory.last_frames.tolist() == [1, 1]
    assert two_tracks.memory.scores == pytest.approx([0.3, 0.29])


def test_forgotten_ten_frames_after_it_was_seen(two_tracks: Tracker) -> None:
    for frame in range(1, 10):
        step(two_tracks, frame, found((track(0), 0.9, 0, 10)))
        assert two_tracks.memory.ids.tolist() == [0, 1]
        assert carried(two_tracks)[1] == 5
    step(two_tracks, 10, found((track(0), 0.9, 0, 10)))
    assert two_tracks.memory.ids.tolist() == [0]


def test_seen_again_in_the_tenth_frame(two_tracks: Tracker) -> None:
    tracks = step(two_tracks, 10, found((track(1), 0.9, 0, 10))).tracks
    assert tracks.ids.tolist() == [1]
    assert two_tracks.memory.ids.tolist() == [1]


def test_a_frame_without_detections_changes_nothing(two_tracks: Tracker) -> None:
    before = two_tracks.memory
    for frame in range(1, 30):
        update = step(two_tracks, frame, found())
        assert len(update.tracks) == 0
        assert update.tracks.masks.shape == (0, *FRAME)
        assert update.dropped == ()
    assert two_tracks.memory is before
    # The next frame with a detection forgets what is due, and only that.
    step(two_tracks, 30, found((track(1), 0.9, 40, 50)))
    assert two_tracks.memory.ids.tolist() == [1]


def test_existing_tracks_drop_each_other_above_the_first_threshold(two_tracks: Tracker) -> None:
    # 9 of 11 columns are shared: 0.82.
    tracks = step(two_tracks, 1, found((track(1), 0.9, 0, 10), (track(0), 0.8, 1, 11))).tracks
    assert tracks.ids.tolist() == [1]
    assert two_tracks.memory.last_frames.tolist() == [0, 1]
    assert carried(two_tracks) == [3, 1000 + track(1)]


def test_existing_tracks_may_overlap_below_it_and_drop_new_ones(two_tracks: Tracker) -> None:
    # 8 of 12: 0.67; the new one shares 7 of 13 (0.54) with the first, and scores best.
    tracks = step(
        two_tracks,
        1,
        found((4, 0.95, 97, 100), (7, 0.92, 3, 13), (track(0), 0.9, 0, 10), (track(1), 0.8, 2, 12)),
    ).tracks
    assert tracks.ids.tolist() == [0, 1, 2]
    assert tracks.query_ids.tolist() == [track(0), track(1), 4]
    assert two_tracks.next_id == 4


def test_ids_of_dropped_new_tracks_are_used_up(tracker: Tracker) -> None:
    tracks = step(tracker, 0, found((1, 0.9, 0, 10), (2, 0.8, 1, 11), (3, 0.7, 50, 60))).tracks
    assert tracks.ids.tolist() == [0, 2]
    assert step(tracker, 1, found((1, 0.9, 90, 99))).tracks.ids.tolist() == [3]


def test_labels_play_no_part(two_tracks: Tracker) -> None:
    """A query with several labels: only its best pair stays, and static ones use up an id."""
    tracks = step(
        two_tracks,
        1,
        found(
            (track(0), 0.9, 0, 10),
            (6, 0.8, 70, 80),
            (track(0), 0.5, 0, 10),
            (6, 0.4, 70, 80),
            labels=[1, 2, 3, 4],
        ),
    ).tracks
    assert tracks.ids.tolist() == [0, 2]
    assert tracks.labels.tolist() == [1, 2]
    assert two_tracks.next_id == 4


def test_empty_masks_count_as_equal(tracker: Tracker) -> None:
    tracks = step(tracker, 0, found((1, 0.9, 0, 0), (2, 0.8, 0, 0), (3, 0.7, 0, 10))).tracks
    assert tracks.ids.tolist() == [0, 2]
    # So a track that is seen as empty also drops a new empty one.
    tracks = step(tracker, 1, found((1, 0.9, 0, 0), (track(0), 0.5, 0, 0))).tracks
    assert tracks.ids.tolist() == [0]


def test_slots_keep_the_visible_then_the_best_and_name_the_rest() -> None:
    tracker = Tracker(slots=2, query_width=WIDTH)
    update = step(tracker, 0, found((1, 0.9, 0, 10), (2, 0.8, 20, 30), (3, 0.7, 40, 50)), slots=2)
    # All were seen in this frame; only two are carried into the next.
    assert update.tracks.ids.tolist() == [0, 1, 2]
    assert update.dropped == (2,)
    assert tracker.memory.ids.tolist() == [0, 1]

    # Id 1 is not seen: it gives way to the two that are, whatever their scores. Row `track(1)`
    # exists, whether used or not.
    update = step(tracker, 1, found((4, 0.85, 60, 70), (track(0), 0.5, 0, 10)), slots=2)
    assert update.tracks.ids.tolist() == [0, 3]
    assert update.dropped == (1,)
    assert tracker.memory.ids.tolist() == [0, 3]
    assert carried(tracker) == [1000 + track(0), 1004]


def test_of_equal_scores_the_older_track_has_the_slot() -> None:
    tracker = Tracker(slots=1, query_width=WIDTH)
    assert step(tracker, 0, found((1, 0.5, 0, 10), (2, 0.5, 20, 30)), slots=1).dropped == (1,)
    assert tracker.memory.ids.tolist() == [0]


def test_forgotten_tracks_free_their_slots_first() -> None:
    tracker = Tracker(slots=1, query_width=WIDTH)
    step(tracker, 0, found((1, 0.9, 0, 10)), slots=1)
    assert step(tracker, 10, found((2, 0.5, 20, 30)), slots=1).dropped == ()
    assert tracker.memory.ids.tolist() == [1]


def test_without_slots_for_tracks_nothing_is_carried() -> None:
    tracker = Tracker(slots=0, query_width=WIDTH)
    assert step(tracker, 0, found((1, 0.9, 0, 10))).dropped == (0,)
    assert len(tracker) == 0


def test_what_is_forgotten_leaves_its_ids_taken(two_tracks: Tracker) -> None:
    two_tracks.forget()
    assert carried(two_tracks) == []
    assert step(two_tracks, 2, found((3, 0.9, 0, 10))).tracks.ids.tolist() == [2]


def test_queries_are_copied(tracker: Tracker) -> None:
    """The caller's buffer may be the next frame's too."""
    queries = np.ones((NUM_STATIC, WIDTH), np.float32)
    tracker.update(0, found((3, 0.9, 0, 10)), queries)
    queries[:] = 7
    assert carried(tracker) == [1]


@settings(deadline=None)
@given(st.data())
def test_overlap_is_the_iou_of_the_masks(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 150)))
    masks = data.draw(hnp.arrays(np.bool_, shape, fill=st.just(False)))
    threshold = data.draw(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.7, 1.0]))
    zeros = np.zeros(2, np.int64)
    packed = [PackedMask.of_pixels(mask) for mask in masks]
    boxes = np.array([mask.box for mask in packed], np.float32)
    detections = Detections(zeros, zeros, zeros.astype(np.float32), boxes, packed, masks[0].shape)
    intersection, union = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    iou = (intersection + 1e-6) / (union + 1e-6)
    assert MaskOverlaps(detections).exceeds(0, 1, threshold) == (iou > threshold)
    assert MaskOverlaps(detections).exceeds(1, 0, threshold) == (iou > threshold)

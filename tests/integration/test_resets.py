"""When a session forgets: at scene cuts, at a refresh, where a stream was interrupted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.mini import INPUT_SIZE, ExportedMini, frames
from vpp_deploy.errors import BackendError, ResumeError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.exploration import Exploration, Lattice, RankNoise
from vpp_deploy.runtime.opening import OpenedModel, open_bundle
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.stream import ResetPolicy
from vpp_deploy.video.source import Frame

COUNT = 9


@pytest.fixture(scope="module")
def one(mini_bundle: ExportedMini) -> OpenedModel:
    return open_bundle(mini_bundle.folder, threads=1)


@pytest.fixture(scope="module")
def three(mini_bundle_of_3: ExportedMini) -> OpenedModel:
    return open_bundle(mini_bundle_of_3.folder, threads=1)


def scene(seed: int = 0, size: tuple[int, int] = INPUT_SIZE) -> list[Frame]:
    return frames(COUNT, seed, size)


def steps(session: VideoSession, video: Sequence[Frame]) -> list[FrameResult]:
    return [session.step(frame) for frame in video]


def resets(results: Sequence[FrameResult]) -> dict[int, str]:
    return {i: result.reset for i, result in enumerate(results) if result.reset is not None}


def assert_same(
    ours: Sequence[FrameResult], theirs: Sequence[FrameResult], first_id: int = 0
) -> None:
    """Equal to the last bit, with ids that begin at `first_id` in ours."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.tracks.ids.tolist() == [first_id + i for i in b.tracks.ids]
        assert a.alive.tolist() == [first_id + i for i in b.alive]
        for name in ("labels", "scores", "boxes", "masks"):
            assert np.array_equal(getattr(a.tracks, name), getattr(b.tracks, name))


def highest_id(results: Sequence[FrameResult]) -> int:
    return max(max(result.tracks.ids, default=-1) for result in results)


def cut_at_5() -> list[Frame]:
    before, after = scene(), scene(seed=4)
    return before[:5] + [replace(frame, rgb=np.roll(frame.rgb, 1, 2) // 3) for frame in after[5:]]


class TestSceneCuts:
    def test_a_new_scene_is_a_new_video_but_for_its_ids(self, one: OpenedModel) -> None:
        video = cut_at_5()
        results = steps(one.session(resets=ResetPolicy(scene_cuts=True)), video)
        assert resets(results) == {0: "start", 5: "scene cut"}
        assert_same(results[:5], steps(one.session(), video[:5]))
        alone = steps(one.session(), video[5:])
        first = results[5].tracks.ids.min()
        assert first > highest_id(results[:5])
        assert_same(results[5:], alone, int(first - alone[0].tracks.ids.min()))

    def test_they_are_left_alone_unless_asked_for(self, one: OpenedModel) -> None:
        assert resets(steps(one.session(), cut_at_5())) == {0: "start"}

    def test_each_stream_has_its_own(self, three: OpenedModel) -> None:
        """One of three is cut; to the last bit, the others get what they would without it."""
        videos = [scene(1), cut_at_5(), scene(2)]
        session = three.session(resets=ResetPolicy(scene_cuts=True))
        together = [session.step_batch(frames) for frames in zip(*videos, strict=True)]
        plain = three.session()
        without = [plain.step_batch(frames) for frames in zip(*videos, strict=True)]
        for s, cut in enumerate(({0: "start"}, {0: "start", 5: "scene cut"}, {0: "start"})):
            ours = [results[s] for results in together if results[s] is not None]
            theirs = [results[s] for results in without]
            assert resets([result for result in ours if result is not None]) == cut
            if s != 1:
                assert_same(
                    [result for result in ours if result is not None],
                    [result for result in theirs if result is not None],
                )


class TestRefresh:
    def test_every_so_many_frames_all_tokens_run_and_tracks_stay(self, one: OpenedModel) -> None:
        session = one.session(resets=ResetPolicy(refresh_every=4), tokens=True)
        results = steps(session, scene())
        assert resets(results) == {0: "start", 4: "refresh", 8: "refresh"}
        for i, result in enumerate(results):
            assert result.tokens is not None
            assert (result.tokens.depth >= 1).all() == (i in (0, 4, 8))
        assert set(results[3].alive) & set(results[4].alive)

    def test_it_counts_from_the_last_reset(self, one: OpenedModel) -> None:
        policy = ResetPolicy(scene_cuts=True, refresh_every=3)
        results = steps(one.session(resets=policy), cut_at_5())
        assert resets(results) == {0: "start", 3: "refresh", 5: "scene cut", 8: "refresh"}

    def test_every_frame(self, one: OpenedModel) -> None:
        results = steps(one.session(resets=ResetPolicy(refresh_every=1)), scene())
        assert set(resets(results)) == set(range(COUNT))

    def test_never_is_not_zero(self) -> None:
        with pytest.raises(ValueError, match="expected 1 or more"):
            ResetPolicy(refresh_every=0)


class TestInterruptions:
    def test_a_reconnect(self, one: OpenedModel) -> None:
        video = scene()
        video[4] = replace(video[4], discontinuity=True)
        results = steps(one.session(), video)
        assert resets(results) == {0: "start", 4: "reconnect"}
        assert not set(results[3].alive) & set(results[4].tracks.ids)

    def test_another_frame_size(self, one: OpenedModel) -> None:
        video = scene()[:4] + scene(size=(60, 100))[4:]
        results = steps(one.session(), video)
        assert resets(results) == {0: "start", 4: "frame size"}
        assert results[4].tracks.masks.shape[1:] == (60, 100)
        alone = steps(one.session(), video[4:])
        first = results[4].tracks.ids.min()
        assert first > highest_id(results[:4])
        assert_same(results[4:], alone, int(first - alone[0].tracks.ids.min()))

    def test_a_new_video_is_more_than_that(self, one: OpenedModel) -> None:
        session = one.session()
        first = steps(session, scene())
        session.reset()
        assert_same(steps(session, scene()), first)


class TestTokens:
    def test_budgets_are_what_is_seen(self, one: OpenedModel) -> None:
        assert one.budgets is not None
        results = steps(one.session(tokens=True), scene())
        for i, result in enumerate(results):
            assert result.tokens is not None
            depth = result.tokens.depth
            assert depth.shape == (INPUT_SIZE[0] // 16, INPUT_SIZE[1] // 16)
            ran = [int((depth >= level).sum()) for level in (1, 2, 3, 4)]
            assert ran == [depth.size if i == 0 else one.budgets[0], *one.budgets[1:]]

    def test_a_dense_model_has_none(self, mini_dense_bundle: ExportedMini) -> None:
        model = open_bundle(mini_dense_bundle.folder, threads=1)
        with pytest.raises(BackendError, match="dense"):
            model.session(tokens=True)
        assert steps(model.session(), scene())[0].tokens is None


class TestSavedStreams:
    """A session that is given another's state goes on as that would have."""

    POLICY = ResetPolicy(scene_cuts=True, refresh_every=3)

    @pytest.mark.parametrize("explored", [None, RankNoise(5), Lattice(4)])
    @pytest.mark.parametrize("at", [1, 4, 5, 6])
    def test_it_goes_on(self, one: OpenedModel, at: int, explored: Exploration | None) -> None:
        video = cut_at_5()
        whole = steps(one.session(explored, self.POLICY), video)
        session = one.session(explored, self.POLICY)
        steps(session, video[:at])
        saved = session.save()
        steps(session, scene(7))  # so that nothing is left in the runner
        resumed = one.session(explored, self.POLICY)
        resumed.restore(saved)
        rest = steps(resumed, video[at:])
        assert_same(rest, whole[at:])
        assert [r.reset for r in rest] == [r.reset for r in whole[at:]]

    def test_one_stream_of_three(self, three: OpenedModel) -> None:
        videos = [scene(1), scene(2), scene(3)]
        session = three.session()
        together = [session.step_batch(frames) for frames in zip(*videos, strict=True)]
        session = three.session()
        for frames_of_step in list(zip(*videos, strict=True))[:4]:
            session.step_batch(frames_of_step)
        saved = session.save(1)
        session.reset()
        other = scene(9)
        session.step_batch([other[0], None, None])
        session.restore(saved, 2)
        for i in range(4, COUNT):
            _, _, ours = session.step_batch([other[i - 3], None, videos[1][i]])
            theirs = together[i][1]
            assert ours is not None
            assert theirs is not None
            assert_same([ours], [theirs])

    def test_of_another_pipeline(
        self, one: OpenedModel, three: OpenedModel, mini_dense_bundle: ExportedMini
    ) -> None:
        dense = open_bundle(mini_dense_bundle.folder, threads=1)
        session = dense.session()
        steps(session, scene()[:2])
        with pytest.raises(ResumeError, match="the saved"):
            one.session().restore(session.save())

    @pytest.mark.parametrize("name", ["counts", "track_queries", "tensor.ref_tokens"])
    def test_without_a_part(self, one: OpenedModel, name: str) -> None:
        session = one.session()
        steps(session, scene()[:2])
        saved = session.save()
        del saved[name]
        with pytest.raises(ResumeError):
            one.session().restore(saved)

    def test_a_step_that_failed_cannot_be_saved(
        self, one: OpenedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = one.session()
        steps(session, scene()[:2])
        with monkeypatch.context() as patch:

            def fails(*_: object, **__: object) -> None:
                raise BackendError("the device is gone")

            patch.setattr(one.runner, "run", fails)
            with pytest.raises(BackendError, match="gone"):
                session.step(scene()[2])
        with pytest.raises(BackendError, match="state"):
            session.save()
        session.reset()
        first = steps(session, scene()[:2])
        assert_same(first, steps(one.session(), scene()[:2]))

    def test_before_the_first_frame_there_is_nothing(self, one: OpenedModel) -> None:
        with pytest.raises(ResumeError, match="nothing to save"):
            one.session().save()

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("frame_size", lambda size: size * 0),
            ("frame_size", lambda size: size * 10**6),
            ("counts", lambda counts: -counts),
            ("counts", lambda counts: counts * 10**17),
            ("counts", lambda counts: counts[[0, 2, 1]] + [0, 0, 9]),
            ("track_ids", lambda ids: np.arange(200)),
            ("track_ids", lambda ids: ids * 0),
            ("track_ids", lambda ids: ids + 1000),
            ("track_last_frames", lambda last: last + 1000),
            ("track_queries", lambda queries: queries * np.float32(np.nan)),
            ("track_scores", lambda scores: scores * np.float32(np.inf)),
            ("thumbnail", lambda image: image[1:]),
            ("thumbnail", lambda image: np.zeros((0, 5, 3), np.uint8)),
            ("tensor.ref_tokens", lambda tokens: tokens * np.float32(np.nan)),
            ("tensor.ref_positions", lambda positions: positions + 10**6),
            ("tensor.ref_positions", lambda positions: positions - 10**6),
        ],
    )
    def test_values_that_no_stream_has(
        self, one: OpenedModel, name: str, change: Callable[[Any], Any]
    ) -> None:
        """None of them reaches the model, where a position outside the grid may end the process."""
        session = one.session(resets=self.POLICY)
        steps(session, scene()[:2])
        saved = session.save()
        assert len(saved["track_ids"]) > 1
        saved[name] = change(saved[name])
        with pytest.raises(ResumeError, match="saved"):
            one.session(resets=self.POLICY).restore(saved)

"""The package as its users import it."""

from pathlib import Path

import numpy as np
import pytest

from tests.mini import CLASSES, INPUT_SIZE, ExportedMini
from tests.unit.video.synthetic import write_video
from vpp_deploy import FrameResult, VideoSession, VppDeployError, open_source
from vpp_deploy.runtime.exploration import RankNoise
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.video.synthetic import moving_scene


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [frame.rgb for frame in moving_scene(INPUT_SIZE, 6, 1)]
    images += [np.roll(frame.rgb, 1, 2) // 3 for frame in moving_scene(INPUT_SIZE, 4, 2)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", images)


def steps(session: VideoSession, clip: Path) -> list[FrameResult]:
    with open_source(clip) as video:
        return [session.step(frame) for frame in video]


def test_a_session_from_a_folder(mini_bundle: ExportedMini, clip: Path) -> None:
    session = VideoSession.open(str(mini_bundle.folder), threads=1, refresh_every=4, tokens=True)
    assert session.classes == CLASSES
    assert session.input_size == INPUT_SIZE
    results = steps(session, clip)
    resets = {r.index: r.reset for r in results if r.reset is not None}
    assert resets == {0: "start", 4: "refresh", 6: "scene cut"}
    assert all(r.tokens is not None for r in results)


def test_it_is_what_the_parts_give(mini_bundle: ExportedMini, clip: Path) -> None:
    ours = steps(VideoSession.open(mini_bundle.folder, threads=1, scene_cuts=False), clip)
    parts = open_bundle(mini_bundle.folder, threads=1)
    theirs = steps(parts.session(RankNoise()), clip)
    for a, b in zip(ours, theirs, strict=True):
        assert a.tracks.ids.tolist() == b.tracks.ids.tolist()
        assert np.array_equal(a.tracks.masks, b.tracks.masks)
        assert a.reset == b.reset == ("start" if a.index == 0 else None)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(VppDeployError, match="is no bundle"):
        VideoSession.open(tmp_path)


def test_detections_of_supervision(mini_bundle: ExportedMini, clip: Path) -> None:
    supervision = pytest.importorskip("supervision")
    session = VideoSession.open(mini_bundle.folder, threads=1)
    for result in steps(session, clip):
        detections = result.tracks.to_supervision(session.classes)
        assert isinstance(detections, supervision.Detections)
        assert len(detections) == len(result.tracks) > 0
        names = [session.classes[label] for label in result.tracks.labels]
        assert detections.data["class_name"].tolist() == names
        assert detections.tracker_id.tolist() == result.tracks.ids.tolist()
        assert np.array_equal(detections.mask, result.tracks.masks)
        best = detections[detections.confidence == detections.confidence.max()]
        assert best.tracker_id[0] in result.tracks.ids

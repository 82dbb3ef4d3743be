"""Frames without end."""

import contextlib
import itertools
import math
from pathlib import Path

import pytest

from tests.unit.video.synthetic import write_video
from vpp_deploy.errors import VideoError
from vpp_deploy.profiling.feed import FedFrame, FrameFeed, SyntheticFeed, VideoFeed
from vpp_deploy.video.synthetic import moving_scene


def take(feed: FrameFeed, count: int) -> list[FedFrame]:
    with contextlib.closing(feed.frames()) as frames:
        return list(itertools.islice(frames, count))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", [f.rgb for f in moving_scene((64, 96), 3)])


def test_a_video_starts_again(clip: Path) -> None:
    feed = VideoFeed(clip)
    assert feed.frame_size == (64, 96)
    fed = take(feed, 8)
    assert [f.first for f in fed] == [i % 3 == 0 for i in range(8)]
    assert [f.frame.index for f in fed] == [i % 3 for i in range(8)]
    assert (fed[1].frame.rgb == fed[4].frame.rgb).all()
    # What opening the video decodes is in no decoding time.
    assert [math.isnan(f.decode_ms) for f in fed] == [f.first for f in fed]


def test_a_synthetic_scene_does_not() -> None:
    fed = take(SyntheticFeed((64, 96)), 50)
    assert [f.first for f in fed] == [True] + [False] * 49
    assert {f.frame.rgb.shape for f in fed} == {(64, 96, 3)}
    assert all(math.isnan(f.decode_ms) for f in fed)


def test_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        VideoFeed(tmp_path / "none.mp4")

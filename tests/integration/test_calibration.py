"""Counting what the published rule keeps: frame by frame what a session under that rule runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.mini import INPUT_SIZE, ExportedMini, mini_config, mini_tensors, write_mini_checkpoint
from vpp_deploy.calibration.model import open_bundles_rule, open_checkpoints_rule
from vpp_deploy.calibration.rule import KeptTokens, count_kept
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.stream import ResetPolicy
from vpp_deploy.video.source import Frame
from vpp_deploy.video.synthetic import moving_scene

BIAS = "detector.backbone.selective_modules.0.mlp.fc2.bias"


def scene() -> list[Frame]:
    return list(moving_scene(INPUT_SIZE, 6, 1))


def cut(frames: list[Frame]) -> list[Frame]:
    after = [dataclasses.replace(f, rgb=np.roll(f.rgb, 1, 2) // 3) for f in frames[3:]]
    return frames[:3] + after


def interrupted(frames: list[Frame]) -> list[Frame]:
    return [dataclasses.replace(f, discontinuity=f.index == 3) for f in frames]


def narrowed(frames: list[Frame]) -> list[Frame]:
    narrow = [dataclasses.replace(f, rgb=f.rgb[:, :96].copy()) for f in frames[3:]]
    return frames[:3] + narrow


def stepped(runner: PipelineRunner, frames: list[Frame]) -> list[tuple[bool, list[int]]]:
    """(whether it ran without state, tokens in blocks 1-2, 3-5, 6-8, 9-11) of each frame."""
    session = VideoSession(runner, resets=ResetPolicy(scene_cuts=True), tokens=True)
    rows = []
    for frame in frames:
        result = session.step(frame)
        assert result.tokens is not None
        depth = result.tokens.depth
        rows.append((result.first, [int((depth >= k).sum()) for k in (1, 2, 3, 4)]))
    return rows


def rows_of(counted: list[KeptTokens]) -> list[tuple[bool, list[int]]]:
    return [(kept.first, [kept.blocks_1_2, *kept.later]) for kept in counted]


@pytest.mark.parametrize("change", [list, cut, interrupted, narrowed])
def test_the_counts_are_those_of_a_session(
    mini_bundle: ExportedMini, change: Callable[[list[Frame]], list[Frame]]
) -> None:
    frames = change(scene())
    runner = open_bundles_rule(mini_bundle.folder, None).runner
    counted = list(count_kept(runner, frames))
    firsts = [kept.first for kept in counted]
    assert firsts == [True, False, False, change is not list, False, False]
    assert rows_of(counted) == stepped(runner, frames)
    assert len({tuple(kept.later) for kept in counted}) > 1
    assert not any(kept.overruled for kept in counted)


def test_after_a_frame_that_kept_nothing_the_rule_keeps_everything(tmp_path: Path) -> None:
    nothing = np.array([-1e3, 1e3], mini_tensors(mini_config())[BIAS].dtype)
    path = write_mini_checkpoint(tmp_path / "none.safetensors", changes={BIAS: nothing})
    runner = open_checkpoints_rule(path, None, INPUT_SIZE).runner
    counted = list(count_kept(runner, scene()[:4]))
    assert [kept.later[0] == 0 for kept in counted] == [True, False, True, False]
    assert [kept.overruled for kept in counted] == [False, True, False, True]

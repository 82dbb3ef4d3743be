"""Two runners of the same pipeline over the same frames: results side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.mini import frames
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.video.source import Frame

OTHER_SIZE = (60, 100)
"""Of frames, in pixels: another number of rows and of bytes in a row."""

READ = ("class_logits", "queries")


def eventful(batch: int, steps: int = 14) -> list[list[Frame | None]]:
    """Frames of several streams: some start late, some pause, one changes its size for a while."""
    streams: list[list[Frame | None]] = []
    for stream in range(batch):
        scene: list[Frame | None] = list(frames(steps, seed=stream))
        other = frames(steps, seed=stream, size=OTHER_SIZE)
        if stream == 0:
            scene[8:11] = other[8:11]
        elif stream == 1:
            scene[:2] = [None, None]
        else:
            scene[5] = None
        streams.append(scene)
    return [list(step) for step in zip(*streams, strict=True)]


def step_both(
    runners: Sequence[PipelineRunner], batch: int, resets: Sequence[int] = (6,)
) -> list[list[dict[str, NDArray[Any]]]]:
    """Steps every runner over `eventful` frames, all streams reset before the steps in `resets`.

    Returns:
        For each step, for each runner, what was seen: tensors, and the tracks of each stream.
    """
    sessions = [VideoSession(runner) for runner in runners]
    seen = []
    for number, step in enumerate(eventful(batch)):
        row = []
        for session, runner in zip(sessions, runners, strict=True):
            if number in resets:
                session.reset()
            results = session.step_batch(step)
            # Before it has chosen for the first time, what the selector gives means nothing.
            names = [n for n in _names(runner) if number > 0 or n != "kept_1_2"]
            tensors = {name: runner.download(name).copy() for name in names}
            tensors |= {f"tracks {s}": _tracks(result) for s, result in enumerate(results)}
            row.append(tensors)
        seen.append(row)
    return seen


def check_equal(seen: list[list[dict[str, NDArray[Any]]]]) -> None:
    """To the last bit."""
    for number, (first, *others) in enumerate(seen):
        for other in others:
            assert first.keys() == other.keys()
            for name, value in first.items():
                np.testing.assert_array_equal(other[name], value, f"step {number}: {name}")
    assert any(len(value) for row in seen for name, value in row[0].items() if "tracks" in name)


def check_close(
    seen: list[list[dict[str, NDArray[Any]]]], tolerance: float, steps: int = 1
) -> None:
    """Values of the first steps, before decisions that hang by a hair can part the two."""
    for number, (first, *others) in enumerate(seen[:steps]):
        for other in others:
            for name in READ:
                scale = np.abs(first[name]).max()
                worst = np.abs(other[name].astype(np.float32) - first[name]).max() / scale
                assert worst <= tolerance, f"step {number}: {name} is {worst:.1e} off"


def _names(runner: PipelineRunner) -> list[str]:
    """What the session reads, the selections, the state and the masks, where there are some."""
    state = [edge.input for edge in runner.spec.state]
    made = {t.name for stage in runner.spec.stages for t in stage.outputs}
    kept = [name for name in ("kept_1_2", "kept_6_8", "kept_9_11") if name in made]
    masks = [name for name in ("mask_logits", "mask_bits", "mask_queries") if name in made]
    return [*READ, *state, *kept, *masks]


def _tracks(result: FrameResult | None) -> NDArray[Any]:
    """(n, 8) what was found, with the area of each mask."""
    if result is None:
        return np.zeros((0, 8))
    tracks = result.tracks
    areas = tracks.masks.sum(axis=(1, 2))
    return np.column_stack([tracks.ids, tracks.labels, tracks.scores, tracks.boxes, areas])

"""What a session refuses rather than compute something wrong; who makes its masks."""

from pathlib import Path

import numpy as np
import pytest

from tests.mini import ExportedMini, frames
from vpp_deploy.errors import BackendError
from vpp_deploy.partition.prepare import prepare_budgets
from vpp_deploy.runtime.onnx_runner import OnnxRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.video.source import Frame


@pytest.fixture
def runner(mini_bundle: ExportedMini) -> OnnxRunner:
    return OnnxRunner(mini_bundle.folder, mini_bundle.manifest)


def test_a_runner_serves_one_session(runner: OnnxRunner) -> None:
    first, second = VideoSession(runner), VideoSession(runner)
    frame = frames(1)[0]
    second.step(frame)
    with pytest.raises(ValueError, match="another session has taken over"):
        first.step(frame)


def test_what_was_taken_over_is_neither_saved_nor_put_back(runner: OnnxRunner) -> None:
    """The state in the runner is the other session's."""
    first = VideoSession(runner)
    first.step(frames(1)[0])
    saved = first.save()
    VideoSession(runner)
    for call in (first.save, first.reset, lambda: first.restore(saved)):
        with pytest.raises(ValueError, match="another session has taken over"):
            call()


@pytest.mark.parametrize("stream", [-1, 1])
def test_no_such_stream(runner: OnnxRunner, stream: int) -> None:
    session = VideoSession(runner)
    session.step(frames(1)[0])
    saved = session.save()
    for call in (
        lambda: session.save(stream),
        lambda: session.reset(stream),
        lambda: session.restore(saved, stream),
    ):
        with pytest.raises(ValueError, match=f"stream {stream} of 1"):
            call()


def test_no_frame(runner: OnnxRunner) -> None:
    with pytest.raises(ValueError, match=r"got no frame.*reset\(\)"):
        VideoSession(runner).step(None)  # type: ignore[arg-type]


def test_a_single_step_of_several_streams(mini_bundle_of_3: ExportedMini) -> None:
    session = VideoSession(OnnxRunner(mini_bundle_of_3.folder, mini_bundle_of_3.manifest))
    with pytest.raises(ValueError, match="3 streams: use step_batch"):
        session.step(frames(1)[0])
    assert session.step_batch([None, None, None]) == [None, None, None]


@pytest.mark.parametrize("name", ["class_logits", "mask_logits"])
def test_numbers_that_are_none(
    runner: OnnxRunner, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As weights or a precision that cannot carry an input would give them."""
    run = runner.run

    def poisoned(stage: str, *, cold: bool = False) -> None:
        run(stage, cold=cold)
        if stage == "head":
            runner.upload(name, np.full_like(runner.download(name), np.nan))

    monkeypatch.setattr(runner, "run", poisoned)
    with pytest.raises(BackendError, match=r"frame 0: .* NaN"):
        VideoSession(runner).step(frames(1)[0])


def test_a_frame_of_another_size_starts_anew(runner: OnnxRunner) -> None:
    small = frames(2, size=(48, 64))
    alone = VideoSession(runner).step(small[0])
    session = VideoSession(runner)
    before = session.step(frames(1)[0])
    again = session.step(small[0])
    assert again.first
    assert again.tracks.ids.tolist() == [before.tracks.ids.max() + 1 + i for i in alone.tracks.ids]
    np.testing.assert_array_equal(again.tracks.masks, alone.tracks.masks)
    assert not session.step(small[1]).first


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 4), (4, 4, 4)])
def test_what_is_no_frame(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        Frame(0, None, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [(96, 128), (61, 203)])
def test_masks_of_a_stage_and_masks_of_the_host(
    mini_checkpoint: Path, mini_recipe: Path, size: tuple[int, int]
) -> None:
    """The same model for either target, in PyTorch: the same instances through a video."""
    sessions = [
        VideoSession(TorchRunner(prepare_budgets(mini_checkpoint, mini_recipe, None, None, t).plan))
        for t in ("cpu", "gpu")
    ]
    found = 0
    for frame in frames(5, size=size):
        host, stage = (session.step(frame) for session in sessions)
        assert "masks" in stage.stage_ms
        assert "masks" not in host.stage_ms
        assert stage.tracks.ids.tolist() == host.tracks.ids.tolist()
        assert stage.tracks.labels.tolist() == host.tracks.labels.tolist()
        np.testing.assert_allclose(stage.tracks.scores, host.tracks.scores, atol=1e-4)
        assert np.mean(stage.tracks.masks != host.tracks.masks) < 1e-3
        found += len(host.tracks)
    assert found > 10

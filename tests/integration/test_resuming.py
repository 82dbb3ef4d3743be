"""What is gone on with, and what is refused and left as it is: runs within this process."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.mini import INPUT_SIZE, ExportedMini
from tests.unit.video.synthetic import write_video
from vpp_deploy.runtime.job import VideoJob
from vpp_deploy.runtime.opening import OpenedModel, open_bundle
from vpp_deploy.runtime.streams import run_videos
from vpp_deploy.runtime.summary import RunSummary
from vpp_deploy.video.pictures import ANNOTATED, Pictures
from vpp_deploy.video.source import open_source
from vpp_deploy.video.synthetic import moving_scene

DONE, FRAMES = 5, 8


@pytest.fixture(scope="module")
def model(mini_bundle: ExportedMini) -> OpenedModel:
    return open_bundle(mini_bundle.folder, threads=1)


def run(model: OpenedModel, job: VideoJob) -> RunSummary:
    (summary,) = run_videos(model, model.session(), [job])
    return summary


@pytest.fixture(scope="module")
def ended(model: OpenedModel, tmp_path_factory: pytest.TempPathFactory) -> VideoJob:
    """A run that ended after some of its video's frames."""
    folder = tmp_path_factory.mktemp("resuming")
    images = [frame.rgb for frame in moving_scene(INPUT_SIZE, FRAMES, 1)]
    clip = write_video(folder / "clip.mp4", images)
    job = job_of(clip, folder / "out", DONE)
    assert run(model, job).frames == DONE
    return job


def job_of(clip: Path, out: Path, stop: int | None = None) -> VideoJob:
    return VideoJob(
        clip, clip.name, out, lambda first: open_source(clip, first or 0, stop), stop=stop
    )


@pytest.fixture
def resumed(ended: VideoJob, tmp_path: Path) -> VideoJob:
    """The rest of it, in a folder that a test may change."""
    shutil.copytree(ended.out, tmp_path / "out")
    assert ended.path is not None
    return replace(job_of(ended.path, tmp_path / "out"), resume=True)


def refused(model: OpenedModel, job: VideoJob) -> str:
    """Why, having changed nothing."""
    before = {path.name: path.read_bytes() for path in job.out.iterdir()}
    summary = run(model, job)
    assert {path.name: path.read_bytes() for path in job.out.iterdir()} == before
    assert summary.ended_by is not None
    return summary.ended_by


def test_it_goes_on(model: OpenedModel, resumed: VideoJob) -> None:
    summary = run(model, resumed)
    assert (summary.ended_by, summary.frames, summary.resumed_at) == (None, FRAMES, DONE)


def test_results_without_a_state_are_kept(model: OpenedModel, resumed: VideoJob) -> None:
    (resumed.out / "state.npz").unlink()
    assert "no state.npz to go on from" in refused(model, resumed)


def test_without_any_result_it_begins(model: OpenedModel, resumed: VideoJob) -> None:
    (resumed.out / "state.npz").unlink()
    (resumed.out / "frames.jsonl").write_bytes(b"")
    summary = run(model, resumed)
    assert (summary.ended_by, summary.frames, summary.resumed_at) == (None, FRAMES, 0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: re.sub(rb'("counts": ")...', rb"\g<1>~~~", text, count=1),
        lambda text: re.sub(rb'("label": )\d', rb"\g<1>9", text, count=1),
        lambda text: text[:-1000],
        lambda text: b"",
    ],
)
def test_edited_lines(
    model: OpenedModel, resumed: VideoJob, edit: Callable[[bytes], bytes]
) -> None:
    lines = resumed.out / "frames.jsonl"
    before = lines.read_bytes()
    lines.write_bytes(edit(before))
    assert lines.read_bytes() != before
    assert "not as the run left it" in refused(model, resumed)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("index", -1, "index"),
        ("index", "4", "index"),
        ("index", 2, "where frame 4 was"),
        ("lines", {"size": 0, "sha256": ""}, "lines.size"),
        ("lines", {"size": 10**30, "sha256": ""}, "not as the run left it"),
        ("lines", None, "lines"),
        ("schema", 1, "another version"),
        ("identity", {}, "identity"),
    ],
)
def test_an_edited_description(
    model: OpenedModel, resumed: VideoJob, name: str, value: Any, match: str
) -> None:
    state = resumed.out / "state.npz"
    with np.load(state) as file:
        arrays = dict(file.items())
    about = json.loads(str(arrays["run"])) | {name: value}
    arrays["run"] = np.array(json.dumps(about))
    np.savez(state, **arrays)
    before = (resumed.out / "frames.jsonl").read_bytes()
    summary = run(model, resumed)
    assert summary.ended_by is not None
    assert match in summary.ended_by
    assert (resumed.out / "frames.jsonl").read_bytes() == before


def test_a_description_without_end(model: OpenedModel, resumed: VideoJob) -> None:
    np.savez(resumed.out / "state.npz", run=np.array("[" * 100_000))
    assert "damaged" in refused(model, resumed)


def test_an_interrupted_drawing_counts_all_frames(
    model: OpenedModel, resumed: VideoJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, drawn = Pictures.write, 0

    def interrupted(pictures: Pictures, *what: Any) -> None:
        nonlocal drawn
        drawn += 1
        if drawn == 2:
            raise KeyboardInterrupt
        write(pictures, *what)

    job = replace(resumed, pictures=(ANNOTATED,))
    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(model, job)
    summary = json.loads((job.out / "summary.json").read_text())
    assert (summary["frames"], summary["resumed_at"]) == (DONE, DONE)
    assert run(model, job).frames == FRAMES
    with open_source(job.out / "annotated.mp4") as video:
        assert len(list(video)) == FRAMES


def test_a_video_that_would_stay_short(model: OpenedModel, resumed: VideoJob) -> None:
    (resumed.out / "annotated.mp4").write_bytes(b"short")
    assert "annotated.mp4 would end where the earlier run did" in refused(model, resumed)
    assert run(model, replace(resumed, pictures=(ANNOTATED,))).ended_by is None


def images_in(folder: Path) -> Path:
    folder.mkdir()
    for number, frame in enumerate(moving_scene(INPUT_SIZE, FRAMES, 1)):
        cv2.imwrite(str(folder / f"{number}.bmp"), frame.rgb)
    return folder


def test_images_of_equal_sizes_are_told_apart(model: OpenedModel, tmp_path: Path) -> None:
    images, other = images_in(tmp_path / "images"), tmp_path / "images" / "3.bmp"
    run(model, job_of(images, tmp_path / "out", DONE))
    size = other.stat().st_size
    shutil.copy(images / "7.bmp", other)
    assert other.stat().st_size == size
    job = replace(job_of(images, tmp_path / "out"), resume=True)
    assert "another video" in refused(model, job)


@pytest.mark.parametrize("pictures", [(), (ANNOTATED,)])
def test_images_that_were_skipped_before(
    model: OpenedModel, tmp_path: Path, pictures: tuple[str, ...]
) -> None:
    images = images_in(tmp_path / "images")
    for number in (1, 3, 6):
        (images / f"{number}.bmp").write_bytes(b"damaged")
    run(model, job_of(images, tmp_path / "out", DONE))
    job = replace(job_of(images, tmp_path / "out"), resume=True, pictures=pictures)
    summary = run(model, job)
    assert (summary.ended_by, summary.frames, summary.resumed_at) == (None, 5, 3)
    assert "3 corrupt packets or images were skipped" in summary.notes

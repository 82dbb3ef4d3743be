"""Several videos stepped together: each one's files are what it would get alone, come what may."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.mini import INPUT_SIZE, ExportedMini
from tests.unit.video.synthetic import Image, packet_places, write_video
from vpp_deploy.errors import BackendError, VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.exploration import RankNoise
from vpp_deploy.runtime.job import VideoJob, output_folders
from vpp_deploy.runtime.opening import OpenedModel, open_bundle
from vpp_deploy.runtime.streams import run_videos
from vpp_deploy.runtime.summary import WHOLE_FRAME, WHOLE_STEP, RunSummary
from vpp_deploy.video.frames_jsonl import FramesJsonl
from vpp_deploy.video.pictures import ANNOTATED
from vpp_deploy.video.source import VideoSource, open_source
from vpp_deploy.video.synthetic import moving_scene

VIDEOS = {
    "short": (3, INPUT_SIZE),
    "long": (9, INPUT_SIZE),
    "wide": (5, (90, 160)),
    "small": (4, (48, 64)),
    "single": (1, INPUT_SIZE),
    "tall": (6, (160, 90)),
}
"""Name to number of frames and (H, W): more than there are streams, no two ending together."""


def scene(name: str) -> list[Image]:
    count, size = VIDEOS[name]
    return [frame.rgb for frame in moving_scene(size, count, seed=len(name) + count)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / f"{name}.mp4", scene(name)) for name in VIDEOS}


@pytest.fixture(scope="module")
def one(mini_bundle: ExportedMini) -> OpenedModel:
    return open_bundle(mini_bundle.folder, threads=1)


@pytest.fixture(scope="module")
def three(mini_bundle_of_3: ExportedMini) -> OpenedModel:
    return open_bundle(mini_bundle_of_3.folder, threads=1)


def job_of(
    path: Path, out: Path, opening: Callable[[Path, int], VideoSource] = open_source
) -> VideoJob:
    return VideoJob(path, path.name, out, lambda first: opening(path, first or 0))


def jobs_of(paths: Sequence[Path], base: Path, *, annotate: bool = False) -> list[VideoJob]:
    folders = output_folders([path.stem for path in paths], base)
    jobs = [job_of(*pair) for pair in zip(paths, folders, strict=True)]
    return [replace(job, pictures=(ANNOTATED,)) for job in jobs] if annotate else jobs


def run(
    model: OpenedModel,
    paths: Sequence[Path],
    base: Path,
    *,
    seed: int | None = None,
    annotate: bool = False,
    on_frame: Callable[[FrameResult], None] = lambda _: None,
) -> list[RunSummary]:
    jobs = jobs_of(paths, base, annotate=annotate)
    exploration = None if seed is None else RankNoise(seed)
    return run_videos(model, model.session(exploration), jobs, on_frame=on_frame)


def lines_of(out: Path) -> list[dict[str, Any]]:
    """frames.jsonl without the times, which are never the same."""
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "stage_ms"} for line in lines]


def assert_complete(out: Path) -> dict[str, Any]:
    """Every file is there, whole, and agrees with the others. Returns the summary."""
    lines = lines_of(out)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert not list(out.glob("*.part"))
    assert summary["frames"] == len(lines)
    assert summary["tracks"] == len(results)
    assert {len(entry["segmentations"]) for entry in results} <= {len(lines)}
    assert [line["first"] for line in lines] == [i == 0 for i in range(len(lines))]
    return summary


def write_images(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    folder.mkdir()
    for i, size in enumerate(sizes):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((*size, 3), 40 * i, np.uint8))
    return folder


@dataclass
class Watched:
    """Opens videos and remembers how many were open at once."""

    is_open: dict[Path, bool] = field(default_factory=dict)
    most: int = 0

    def open(self, path: Path, start: int) -> VideoSource:
        source = open_source(path, start)
        release = source._release

        def watched_release() -> None:
            self.is_open[path] = False
            release()

        source._release = watched_release  # type: ignore[method-assign]
        assert path not in self.is_open
        self.is_open[path] = True
        self.most = max(self.most, sum(self.is_open.values()))
        return source


class TestTogetherAsAlone:
    @pytest.mark.parametrize("seed", [None, 3])
    def test_frame_by_frame(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path, seed: int | None
    ) -> None:
        """To the last digit: the others in the batch change nothing."""
        together = run(three, list(videos.values()), tmp_path / "together", seed=seed)
        assert [s.frames for s in together] == [count for count, _ in VIDEOS.values()]
        assert sum(s.tracks for s in together) > len(VIDEOS)
        for (name, path), ours in zip(videos.items(), together, strict=True):
            (alone,) = run(three, [path], tmp_path / "alone", seed=seed)
            out, single = tmp_path / "together" / name, tmp_path / "alone" / name
            assert lines_of(out) == lines_of(single)
            assert (out / "results.json").read_bytes() == (single / "results.json").read_bytes()
            assert ours.ended_by is None
            assert ours.tracks_by_class == alone.tracks_by_class
            assert assert_complete(out)["video"] == f"{name}.mp4"

    def test_as_a_model_of_one_stream(
        self, one: OpenedModel, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        """Another graph, so equal decisions and nearly equal values."""
        run(three, list(videos.values()), tmp_path / "three")
        for name, path in videos.items():
            run(one, [path], tmp_path / "one")
            ours, theirs = (lines_of(tmp_path / folder / name) for folder in ("three", "one"))
            for a, b in zip(ours, theirs, strict=True):
                for key in ("index", "time_s", "first", "tracks_dropped"):
                    assert a[key] == b[key]
                for p, q in zip(a["tracks"], b["tracks"], strict=True):
                    assert (p["id"], p["label"]) == (q["id"], q["label"])
                    assert p["score"] == pytest.approx(q["score"], abs=5e-4)
                    assert p["area"] == pytest.approx(q["area"], rel=0.01, abs=2)

    def test_only_what_is_running_is_open(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        watched = Watched()
        jobs = [job_of(path, tmp_path / name, watched.open) for name, path in videos.items()]
        run_videos(three, three.session(), jobs)
        assert watched.most == 3
        assert watched.is_open == dict.fromkeys(videos.values(), False)


class TestWhatIsTold:
    def test_latency_of_a_step(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        names = ("short", "wide", "small")
        for summary in run(three, [videos[name] for name in names], tmp_path):
            assert summary.streams == 3
            assert WHOLE_FRAME not in summary.latency_ms
            step = summary.latency_ms[WHOLE_STEP]
            parts = [
                row
                for stage, row in summary.latency_ms.items()
                if stage not in (WHOLE_STEP, "decode", "output")
            ]
            assert step["first"] is not None
            # Post-processing and tracking of the two other videos are in the step only.
            assert step["first"] > sum(row["first"] or 0.0 for row in parts)

    def test_latency_of_a_frame(
        self, one: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        (summary,) = run(one, [videos["short"]], tmp_path)
        assert summary.streams == 1
        assert WHOLE_FRAME in summary.latency_ms
        assert WHOLE_STEP not in summary.latency_ms

    def test_idle_streams(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        for names, idle in ((["short"], 2), (["short", "single"], 1)):
            for summary in run(three, [videos[name] for name in names], tmp_path):
                assert summary.notes[0].startswith(f"{idle} of the model's 3 streams")
        for summary in run(three, [videos[n] for n in ("short", "small", "single")], tmp_path):
            assert not any("streams" in note for note in summary.notes)

    def test_every_frame_is_told_of(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        told: list[FrameResult] = []
        summaries = run(three, list(videos.values()), tmp_path, on_frame=told.append)
        assert len(told) == sum(summary.frames for summary in summaries)


class TestFailures:
    def test_a_video_that_fails_in_the_middle(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        """Its stream goes to the next one; all others are what they would be without it."""
        images = write_images(tmp_path / "images", [INPUT_SIZE, INPUT_SIZE, (50, 50), INPUT_SIZE])
        cut = write_video(tmp_path / "cut.mp4", scene("long") * 4, faststart=True)
        offset, length = packet_places(cut)[20]
        cut.write_bytes(cut.read_bytes()[: offset + length // 2])
        paths = [videos["long"], images, cut, videos["wide"], videos["short"]]
        summaries = run(three, paths, tmp_path / "out", annotate=True)
        failed = [summary.ended_by for summary in summaries]
        assert [reason is None for reason in failed] == [True, False, False, True, True]
        assert "50x50" in str(failed[1])
        assert "cut.mp4 ends early" in str(failed[2])
        assert summaries[1].frames == 2
        assert 15 <= summaries[2].frames <= 21
        for path, summary in zip(paths, summaries, strict=True):
            out = tmp_path / "out" / path.stem
            assert assert_complete(out)["ended_by"] == summary.ended_by
            with open_source(out / "annotated.mp4") as annotated:
                assert len(list(annotated)) == summary.frames
            if summary.ended_by is None:
                run(three, [path], tmp_path / "alone")
                assert lines_of(out) == lines_of(tmp_path / "alone" / path.stem)

    def test_a_video_that_is_gone_when_its_turn_comes(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        paths = [videos["short"], tmp_path / "gone.mp4", videos["single"]]
        _, gone, _ = summaries = run(three, paths, tmp_path / "out")
        assert [summary.frames for summary in summaries] == [3, 0, 1]
        assert "gone.mp4: no such file" in str(gone.ended_by)
        written = json.loads((tmp_path / "out" / "gone" / "summary.json").read_text())
        assert written["ended_by"] == gone.ended_by

    def test_a_folder_that_goes_away(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        def remove(_: FrameResult) -> None:
            shutil.rmtree(tmp_path / "out" / "short", ignore_errors=True)

        names = ("short", "long")
        short, long = run(three, [videos[n] for n in names], tmp_path / "out", on_frame=remove)
        assert "cannot be written" in str(short.ended_by)
        assert long.ended_by is None
        assert assert_complete(tmp_path / "out" / "long")["frames"] == VIDEOS["long"][0]

    def test_a_write_that_is_interrupted_leaves_the_others_states_as_they_were(
        self,
        three: OpenedModel,
        videos: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The session is ahead of what is written then, and must not be saved."""
        names = ("long", "tall", "wide")
        paths = [videos[name] for name in names]
        run(three, paths, tmp_path / "whole")
        write, calls = FramesJsonl.write, 0

        def interrupted_once(lines: FramesJsonl, result: FrameResult) -> None:
            nonlocal calls
            calls += 1
            if calls == 8:  # the second of three, in the third step
                raise KeyboardInterrupt
            write(lines, result)

        with monkeypatch.context() as patch:
            patch.setattr(FramesJsonl, "write", interrupted_once)
            with pytest.raises(KeyboardInterrupt):
                run(three, paths, tmp_path / "out")
        jobs = [replace(job, resume=True) for job in jobs_of(paths, tmp_path / "out")]
        for summary in run_videos(three, three.session(), jobs):
            assert summary.ended_by is None
            assert summary.resumed_at > 0
        for name in names:
            assert lines_of(tmp_path / "out" / name) == lines_of(tmp_path / "whole" / name)

    def test_a_model_that_fails_ends_all(
        self,
        three: OpenedModel,
        videos: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        steps = 0
        run_stage = three.runner.run

        def fails_in_step_5(stage: str, *, cold: bool = False) -> None:
            nonlocal steps
            steps += stage == "stem"
            if steps == 5:
                raise BackendError("the device is gone")
            run_stage(stage, cold=cold)

        monkeypatch.setattr(three.runner, "run", fails_in_step_5)
        names = ("short", "long", "wide", "small", "tall")
        with pytest.raises(BackendError, match="the device is gone"):
            run(three, [videos[name] for name in names], tmp_path)
        done = {"short": (3, None), "small": (1, "the device is gone")}
        for name in names[:-1]:
            frames, ended_by = done.get(name, (4, "the device is gone"))
            summary = assert_complete(tmp_path / name)
            assert (summary["frames"], summary["ended_by"]) == (frames, ended_by)
        assert not list((tmp_path / "tall").glob("*.*n*"))

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
    def test_an_interruption_completes_all(
        self,
        three: OpenedModel,
        videos: dict[str, Path],
        tmp_path: Path,
        interruption: type[BaseException],
    ) -> None:
        told = 0

        def interrupt(_: FrameResult) -> None:
            nonlocal told
            told += 1
            if told == 5:
                raise interruption

        names = ("short", "long", "wide")
        with pytest.raises(interruption):
            run(three, [videos[name] for name in names], tmp_path, on_frame=interrupt)
        for name in names:
            summary = assert_complete(tmp_path / name)
            assert (summary["frames"], summary["ended_by"]) == (2, "interruption")


class TestFolders:
    def test_equal_names(self) -> None:
        names = ["clip", "clip-2", "CLIP-3", "clip-2-2"]
        folders = output_folders(["clip", "clip", "CLIP", "clip-2"], Path("runs"))
        assert folders == [Path("runs") / name for name in names]

    def test_one_folder_for_two(self, one: OpenedModel, tmp_path: Path) -> None:
        jobs = [job_of(Path(name), tmp_path) for name in ("a", "b")]
        with pytest.raises(ValueError, match="same output folder"):
            run_videos(one, one.session(), jobs)

    def test_a_video_in_the_folder_of_another(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        """The second video's results would replace the first video."""
        (tmp_path / "short").mkdir()
        precious = tmp_path / "short" / "annotated.mp4"
        shutil.copy(videos["single"], precious)
        with pytest.raises(VideoError, match=r"annotated.mp4 would be overwritten"):
            run(three, [precious, videos["short"]], tmp_path)
        assert precious.read_bytes() == videos["single"].read_bytes()

    @pytest.mark.parametrize("below", [".", "results/short"])
    def test_a_bundle_in_the_way(
        self,
        one: OpenedModel,
        mini_bundle: ExportedMini,
        videos: dict[str, Path],
        tmp_path: Path,
        below: str,
    ) -> None:
        """It would no longer be one that an export may replace."""
        bundle = shutil.copytree(mini_bundle.folder, tmp_path / "bundle")
        before = sorted(bundle.rglob("*"))
        with pytest.raises(VideoError, match="bundle holds a bundle or an engine"):
            run_videos(one, one.session(), [job_of(videos["short"], bundle / below)])
        assert sorted(bundle.rglob("*")) == before

    def test_a_file_in_the_way(
        self, three: OpenedModel, videos: dict[str, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "long").write_text("precious")
        with pytest.raises(VideoError, match="--out"):
            run(three, [videos["short"], videos["long"]], tmp_path)
        assert (tmp_path / "long").read_text() == "precious"
        assert not list((tmp_path / "short").glob("*.*n*"))

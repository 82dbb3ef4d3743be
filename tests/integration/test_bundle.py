"""Exported bundles in real ONNX Runtime: against PyTorch, in a batch, damaged, interrupted."""

import contextlib
import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.mini import (
    INPUT_SIZE,
    SLOTS,
    ExportedMini,
    frames,
    graphs_of,
    mini_config,
    write_mini_checkpoint,
    write_mini_recipe,
)
from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.errors import BackendError, BundleError, ExportError
from vpp_deploy.export import bundle as bundle_module
from vpp_deploy.export.bundle import INSPECTED_HEAD, export_bundle
from vpp_deploy.export.graphs import export_graph
from vpp_deploy.export.lint import lint_graph
from vpp_deploy.manifests import MANIFEST_NAME, Manifest, hash_file, read_manifest, write_manifest
from vpp_deploy.models.deformable import sample_grid
from vpp_deploy.models.tokens import best
from vpp_deploy.parity import MIN_FRAMES, SHIPPED_HEAD, BundleVerifier, compare
from vpp_deploy.parity_report import ParityReport
from vpp_deploy.partition.head import Head
from vpp_deploy.partition.plan import plan_pipeline
from vpp_deploy.partition.prepare import prepare_budgets
from vpp_deploy.recipes import MAX_BUDGET, ModelSettings
from vpp_deploy.results import FrameResult, Tracks
from vpp_deploy.runtime.exploration import Lattice, RankNoise
from vpp_deploy.runtime.onnx_runner import OnnxRunner
from vpp_deploy.runtime.opening import newest_model, open_bundle
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.specs import StageSpec, TensorSpec
from vpp_deploy.video.source import Frame

PADDED_SIZE = (90, 160)
"""Frames that are resized to 72x128 and padded to the input's 96x128."""

TOKENS = ("kept_1_2", "ref_positions", "kept_6_8", "kept_9_11")
"""Positions that ran in a frame, once the state has moved on."""


def runner_of(exported: ExportedMini) -> OnnxRunner:
    return OnnxRunner(exported.folder, exported.manifest)


def reference(exported: ExportedMini) -> Any:
    """The model with the reference's sampler, not the one that was exported."""
    return build_model(exported.prepared.checkpoint, ModelSettings(), sample_grid)


def compared(
    exported: ExportedMini, videos: Sequence[list[Frame]], reset_at: int | None = None
) -> ParityReport:
    runner = OnnxRunner(exported.inspected, exported.inspected_manifest)
    budgets = exported.prepared.budgets
    counts = None if budgets is None else dataclasses.astuple(budgets)[1:]
    steps = [list(batch) for batch in zip(*videos, strict=True)]
    return compare(reference(exported), counts, runner, steps, reset_at)


def positions(runner: PipelineRunner, stream: int, first: bool) -> list[list[int]]:
    """What ran in blocks 1-2, 3-5, 6-8, 9-11; a first frame runs everything in 1-2."""
    names = TOKENS[1:] if first else TOKENS
    return [runner.download(name)[stream].tolist() for name in names]


def assert_same_tracks(ours: Tracks, theirs: Tracks) -> None:
    """Equal decisions, and values within what another order of summation makes of them."""
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.query_ids, theirs.query_ids)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=5e-4)
    for a, b in zip(ours.masks, theirs.masks, strict=True):
        assert not (a | b).any() or (a & b).sum() / (a | b).sum() > 0.99


def assert_identical(ours: FrameResult, theirs: FrameResult) -> None:
    assert (ours.first, ours.tracks_dropped) == (theirs.first, theirs.tracks_dropped)
    for field in dataclasses.fields(Tracks):
        a, b = getattr(ours.tracks, field.name), getattr(theirs.tracks, field.name)
        np.testing.assert_array_equal(a, b)


class TestAgainstTorch:
    """Values under equal decisions, then free-running."""

    @pytest.mark.parametrize("size", [INPUT_SIZE, PADDED_SIZE])
    def test_budgets(self, mini_bundle: ExportedMini, size: tuple[int, int]) -> None:
        report = compared(mini_bundle, [frames(9, 1, size)], reset_at=5)
        assert report.frames == 9
        assert set(report.equal_tokens) == {"kept_1_2", "kept_3_5", "kept_6_8", "kept_9_11"}
        assert set(report.equal_tokens.values()) == {1.0}
        assert len(report.outputs) == 12
        for difference in report.outputs.values():
            assert difference.spread > 0
        assert not report.failures()

    def test_dense(self, mini_dense_bundle: ExportedMini) -> None:
        report = compared(mini_dense_bundle, [frames(8, 1)], reset_at=4)
        assert report.equal_tokens == {}
        assert not report.failures()
        assert len(report.outputs) == 10

    def test_a_batch(self, mini_bundle_of_3: ExportedMini) -> None:
        videos = [frames(6, 1), frames(6, 2, PADDED_SIZE), frames(6, 3, (64, 64))]
        report = compared(mini_bundle_of_3, videos, reset_at=3)
        assert set(report.equal_tokens.values()) == {1.0}
        assert not report.failures()

    def test_free_running(self, mini_bundle: ExportedMini) -> None:
        onnx_runner, torch_runner = runner_of(mini_bundle), TorchRunner(mini_bundle.prepared.plan)
        sessions = [VideoSession(onnx_runner), VideoSession(torch_runner)]
        num_tracks = 0
        again = 0
        seen: set[int] = set()
        for t, frame in enumerate(frames(10, 1)):
            if t == 6:
                for session in sessions:
                    session.reset()
                seen.clear()
            ours, theirs = (session.step(frame) for session in sessions)
            assert ours.first == theirs.first == (t in (0, 6))
            assert positions(onnx_runner, 0, ours.first) == positions(torch_runner, 0, ours.first)
            assert ours.tracks_dropped == theirs.tracks_dropped
            assert_same_tracks(ours.tracks, theirs.tracks)
            num_tracks += len(ours.tracks)
            again += len(seen & set(ours.tracks.ids.tolist()))
            seen |= set(ours.tracks.ids.tolist())
        assert num_tracks > 20  # else this test would say little
        assert again > 3

    def test_free_running_dense(self, mini_dense_bundle: ExportedMini) -> None:
        plan = mini_dense_bundle.prepared.plan
        sessions = [VideoSession(runner_of(mini_dense_bundle)), VideoSession(TorchRunner(plan))]
        for frame in frames(6, 1):
            ours, theirs = (session.step(frame) for session in sessions)
            assert_same_tracks(ours.tracks, theirs.tracks)
        stages = ("stem", "selector", "trunk", "head")
        assert [name for name in ours.stage_ms if name in stages] == ["stem", "trunk", "head"]


class TestBatch:
    """Three streams in one batch, each getting what it would get alone."""

    def test_against_each_alone(
        self, mini_bundle_of_3: ExportedMini, mini_bundle: ExportedMini
    ) -> None:
        """Stream 1 is reset before frame 3; stream 2 has no frames 4 and 5 and starts again."""
        videos = [frames(8, 1), frames(8, 2, PADDED_SIZE), frames(8, 3)]
        runner = runner_of(mini_bundle_of_3)
        session = VideoSession(runner)
        alone_runners = [runner_of(mini_bundle) for _ in videos]
        alone = [VideoSession(r) for r in alone_runners]
        largest = 0.0
        firsts = []
        for t in range(8):
            if t == 3:
                session.reset(1)
                alone[1].reset()
            batch: list[Frame | None] = [video[t] for video in videos]
            if t in (4, 5):
                batch[2] = None
            if t == 6:
                alone[2].reset()
            results = session.step_batch(batch)
            for s, (frame, result) in enumerate(zip(batch, results, strict=True)):
                if frame is None:
                    assert result is None
                    continue
                assert result is not None
                expected = alone[s].step(frame)
                firsts.append((t, s, result.first))
                assert result.first == expected.first
                ours = positions(runner, s, result.first)
                assert ours == positions(alone_runners[s], 0, result.first)
                assert result.tracks_dropped == expected.tracks_dropped
                assert_same_tracks(result.tracks, expected.tracks)
                for name in ("projected4", "projected8", "projected16", "projected32"):
                    theirs = alone_runners[s].download(name)[0]
                    largest = max(largest, np.abs(runner.download(name)[s] - theirs).max())
        assert largest < 1e-4
        assert {(t, s) for t, s, first in firsts if first} == {
            (0, 0),
            (0, 1),
            (0, 2),
            (3, 1),
            (6, 2),
        }

    def test_a_stream_that_is_long_without_frames(
        self, mini_bundle_of_3: ExportedMini, mini_bundle: ExportedMini
    ) -> None:
        """Stream 0 joins after two frames, stream 1 has none at all; later nobody has one."""
        video = frames(5, 1)
        runner = runner_of(mini_bundle_of_3)
        session = VideoSession(runner)
        session.step_batch([None, None, video[0]])
        session.step_batch([None, None, video[1]])
        alone = VideoSession(runner_of(mini_bundle))
        for frame in video[:3]:
            results = session.step_batch([frame, None, frame])
            assert results[0] is not None
            assert_same_tracks(results[0].tracks, alone.step(frame).tracks)
        assert session.step_batch([None] * 3) == [None] * 3
        fresh = VideoSession(runner_of(mini_bundle))
        for frame in video[3:]:
            expected = fresh.step(frame)
            for result in session.step_batch([frame] * 3):
                assert result is not None
                assert result.first == expected.first
                assert_same_tracks(result.tracks, expected.tracks)

    def test_another_count_of_frames(self, mini_bundle_of_3: ExportedMini) -> None:
        session = VideoSession(runner_of(mini_bundle_of_3))
        (frame,) = frames(1)
        with pytest.raises(ValueError, match="step_batch"):
            session.step(frame)
        with pytest.raises(ValueError, match="2 frames for 3 streams"):
            session.step_batch([frame, frame])


class TestState:
    """Cold start, reset, exploration, buffers."""

    def test_reset_is_a_fresh_session(self, mini_bundle: ExportedMini) -> None:
        used = VideoSession(runner_of(mini_bundle))
        for frame in frames(4, 2):
            used.step(frame)
        used.reset()
        fresh = VideoSession(runner_of(mini_bundle))
        for frame in frames(4, 1):
            assert_identical(used.step(frame), fresh.step(frame))

    def test_a_new_session_on_a_used_runner_starts_cold(self, mini_bundle: ExportedMini) -> None:
        runner = runner_of(mini_bundle)
        first = VideoSession(runner)
        for frame in frames(3, 2):
            first.step(frame)
        again, fresh = VideoSession(runner), VideoSession(runner_of(mini_bundle))
        for frame in frames(3, 1):
            assert_identical(again.step(frame), fresh.step(frame))

    def test_a_first_frame_does_not_run_the_selector(self, mini_bundle: ExportedMini) -> None:
        session = VideoSession(runner_of(mini_bundle))
        first, second = (session.step(frame) for frame in frames(2))
        assert "selector" not in first.stage_ms
        stages = ["stem", "selector", "trunk", "head"]
        assert [name for name in second.stage_ms if name in stages] == stages

    def test_exploration_is_seeded(self, mini_bundle: ExportedMini) -> None:
        def kept(seed: int | None) -> list[list[int]]:
            runner = runner_of(mini_bundle)
            noise = None if seed is None else RankNoise(seed)
            session = VideoSession(runner, exploration=noise)
            chosen = []
            for frame in frames(6, 1):
                session.step(frame)
                chosen.append(runner.download("kept_1_2")[0].tolist())
            return chosen[1:]

        assert kept(7) == kept(7)
        assert kept(7) != kept(8)
        assert kept(7) != kept(None)
        assert kept(None) == kept(None)
        assert all(len(set(group)) == len(group) for group in kept(7))

    def test_a_lattice_gives_every_patch_its_turn(self, mini_bundle: ExportedMini) -> None:
        runner = runner_of(mini_bundle)
        session = VideoSession(runner, exploration=Lattice(8))
        seen = set()
        first, *rest = frames(9, 1)
        session.step(first)
        for frame in rest:
            session.step(frame)
            seen.update(runner.download("kept_1_2")[0].tolist())
        assert seen == set(range(runner.spec.tensor("tokens").shape[1]))

    def test_nothing_is_reallocated(self, mini_bundle: ExportedMini) -> None:
        runner = runner_of(mini_bundle)
        session = VideoSession(runner)
        spec = runner.spec
        names = {t.name for stage in spec.stages for t in (*stage.inputs, *stage.outputs)}
        addresses = []
        for frame in frames(5, 1):
            session.step(frame)
            addresses.append({name: runner.download(name).ctypes.data for name in names})
        state = {edge.input: edge.output for edge in spec.state}
        for name in names - state.keys() - set(state.values()):
            assert len({address[name] for address in addresses}) == 1, name
        for incoming, outgoing in state.items():
            for before, after in itertools.pairwise(addresses):
                assert before[incoming] != before[outgoing]
                assert (after[incoming], after[outgoing]) == (before[outgoing], before[incoming])

    def test_uploads_of_another_shape_or_type_are_refused(self, mini_bundle: ExportedMini) -> None:
        runner = runner_of(mini_bundle)
        with pytest.raises(ValueError, match="frames takes shape"):
            runner.upload("frames", np.zeros((1, 64, 64, 3), np.uint8))
        with pytest.raises(TypeError):
            runner.upload("frames", np.zeros((1, *INPUT_SIZE, 3), np.float32))


class TestEmptySlots:
    """Whatever an empty track slot holds, it changes nothing for the others."""

    @pytest.mark.parametrize("count", [0, 1, 5, SLOTS])
    def test_garbage_changes_nothing(self, mini_bundle: ExportedMini, count: int) -> None:
        runner = runner_of(mini_bundle)
        VideoSession(runner).step(frames(1, 1)[0])
        rng = np.random.default_rng(0)
        queries = rng.normal(size=(1, SLOTS, mini_config().head_width)).astype(np.float32)
        valid = (np.arange(SLOTS) < count)[None]
        outputs = []
        for garbage in (0.0, 1e30, np.nan, -np.inf):
            queries[0, count:] = garbage
            outputs.append(self._head(runner, queries, valid, count))
        for others in outputs[1:]:
            for a, b in zip(outputs[0], others, strict=True):
                np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("count", [0, 3])
    def test_as_without_the_slots(self, mini_bundle: ExportedMini, count: int) -> None:
        """A model that takes exactly `count` tracks says the same within rounding."""
        runner = runner_of(mini_bundle)
        VideoSession(runner).step(frames(1, 1)[0])
        rng = np.random.default_rng(0)
        queries = rng.normal(size=(1, SLOTS, mini_config().head_width)).astype(np.float32)
        ours = self._head(runner, queries, (np.arange(SLOTS) < count)[None], count)
        names = [f"projected{stride}" for stride in (4, 8, 16, 32)]
        projected = [torch.from_numpy(runner.download(name).copy()) for name in names]
        tracks = torch.from_numpy(queries[:, :count])
        valid = torch.ones(1, count, dtype=torch.bool)
        theirs = Head(mini_bundle.prepared.model)(*projected, tracks, valid)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b[0].numpy(), rtol=0, atol=1e-3)

    @staticmethod
    def _head(
        runner: OnnxRunner, queries: NDArray[np.float32], valid: NDArray[np.bool_], count: int
    ) -> list[NDArray[np.float32]]:
        """Rows that are read: static queries and tracks."""
        runner.upload("track_queries", queries)
        runner.upload("track_valid", valid)
        runner.run("head")
        read = mini_config().num_queries + count
        rows = slice(0, read)
        return [
            runner.download("class_logits")[0, rows].copy(),
            runner.download("mask_logits")[0, rows].copy(),
            runner.download("queries")[0, rows].copy(),
        ]


class TestManifest:
    """What a bundle says of itself, and what is refused."""

    def test_it_describes_the_bundle(self, mini_bundle: ExportedMini) -> None:
        manifest = read_manifest(mini_bundle.folder)
        assert manifest == mini_bundle.manifest
        assert [s.name for s in manifest.pipeline.stages] == ["stem", "selector", "trunk", "head"]
        assert manifest.pipeline == mini_bundle.prepared.plan.spec
        assert manifest.budgets == (33, 24, 16, 9)
        assert manifest.track_slots == SLOTS
        assert manifest.classes == mini_config().classes
        assert manifest.preprocessing.input_size == INPUT_SIZE
        assert manifest.checkpoint.endswith("mini.safetensors")
        assert set(manifest.versions) >= {"torch", "onnx", "vpp-deploy"}
        counted = manifest.operations
        assert counted["trunk"].macs_first_frame > counted["trunk"].macs > 0
        assert counted["selector"].macs_first_frame == 0 < counted["selector"].macs
        files = {path.name for path in mini_bundle.folder.iterdir()}
        assert files == {MANIFEST_NAME, *manifest.files.values()}

    def test_dense(self, mini_dense_bundle: ExportedMini) -> None:
        manifest = mini_dense_bundle.manifest
        names = [stage.name for stage in manifest.pipeline.stages]
        assert names == ["stem", "trunk", "head", "masks"]
        assert manifest.budgets == ()
        assert manifest.pipeline.state == ()
        assert manifest.pipeline.cold_start is None
        assert open_bundle(mini_dense_bundle.folder).budgets is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: d["pipeline"]["stages"].reverse(),
            lambda d: d["pipeline"]["stages"].append(d["pipeline"]["stages"][0]),
            lambda d: d["pipeline"].update(state=[]),
            lambda d: d["pipeline"]["state"].pop(),
            lambda d: d["pipeline"]["state"].append(d["pipeline"]["state"][0]),
            lambda d: d["pipeline"].update(cold_start=None),
            lambda d: d["pipeline"]["cold_start"].update(num_tokens=10**12),
            lambda d: d["pipeline"]["cold_start"].update(num_tokens=40),
            lambda d: d["pipeline"]["cold_start"].update(skip=["stem"]),
            lambda d: d["pipeline"]["cold_start"].update(keep="tokens"),
            lambda d: d.update(budgets=[]),
            lambda d: d.update(budgets=[33, 24, 16, 8]),
            lambda d: d.update(batch=2),
            lambda d: d.update(track_slots=9),
            lambda d: d.update(classes=["dog"]),
            lambda d: d["sha256"].update({"a" * 300: "0"}),
            lambda d: d["operations"].pop("head"),
            lambda d: d["operations"].update(tail=d["operations"]["head"]),
            lambda d: d["operations"]["head"].update(macs=1),
            lambda d: d["operations"]["head"].update(macs_first_frame=1),
            lambda d: d["operations"]["trunk"].update(macs_first_frame=1),
            lambda d: d["operations"]["selector"].update(macs_first_frame=1),
            lambda d: d["operations"]["stem"].update(
                macs=-1, macs_first_frame=-1, by_operator={"Conv": -1}
            ),
        ],
    )
    def test_one_that_contradicts_itself(
        self, copied: Path, change: Callable[[dict[str, Any]], None]
    ) -> None:
        path = copied / MANIFEST_NAME
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(BundleError, match=r"contradicts itself|is missing"):
            open_bundle(copied)

    def test_a_changed_graph(self, copied: Path) -> None:
        data = bytearray((copied / "trunk.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (copied / "trunk.onnx").write_bytes(data)
        with pytest.raises(BundleError, match=r"trunk\.onnx is not the file"):
            open_bundle(copied)

    def test_a_missing_graph(self, copied: Path) -> None:
        (copied / "head.onnx").unlink()
        with pytest.raises(BundleError, match=r"head\.onnx is missing"):
            open_bundle(copied)

    def test_no_manifest(self, copied: Path) -> None:
        (copied / MANIFEST_NAME).unlink()
        with pytest.raises(BundleError, match="is no bundle"):
            open_bundle(copied)

    @pytest.mark.parametrize("path", ["nowhere", "file"])
    def test_no_bundle(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(BundleError, match="is no bundle"):
            open_bundle(tmp_path / path)

    @pytest.mark.parametrize("schema", [0, 1, 2, 4, "3", None, [3]])
    def test_another_schema(self, copied: Path, schema: object) -> None:
        edit(copied, schema=schema)
        with pytest.raises(BundleError, match="schema"):
            open_bundle(copied)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b"[]",
            b"{}",
            b"null",
            b'"text"',
            b"\xff\xfe\x00",
            b'{"schema": 3}',
            b"[" * 100_000,
        ],
    )
    def test_garbage(self, copied: Path, text: bytes) -> None:
        (copied / MANIFEST_NAME).write_bytes(text)
        with pytest.raises(BundleError):
            open_bundle(copied)

    @pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Manifest)])
    @pytest.mark.parametrize("value", [None, 5, "text", [], {}, [5], {"stem": 5}])
    def test_a_field_of_another_form(self, copied: Path, name: str, value: object) -> None:
        """Refused with one line, or of no consequence; never a traceback."""
        edit(copied, **{name: value})
        with contextlib.suppress(BundleError):
            read_manifest(copied)

    @pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Manifest)])
    def test_a_field_is_missing(self, copied: Path, name: str) -> None:
        document = json.loads((copied / MANIFEST_NAME).read_text())
        del document[name]
        (copied / MANIFEST_NAME).write_text(json.dumps(document))
        with pytest.raises(BundleError, match="damaged"):
            read_manifest(copied)

    @pytest.mark.parametrize("name", ["../head.onnx", "/etc/passwd", "sub/head.onnx", ".."])
    def test_a_file_outside(self, copied: Path, name: str) -> None:
        document = json.loads((copied / MANIFEST_NAME).read_text())
        shutil.copy(copied / "head.onnx", copied.parent / "head.onnx")
        digest = document["sha256"].pop("head.onnx")
        edit(
            copied,
            files={**document["files"], "head": name},
            sha256={**document["sha256"], name: digest},
        )
        with pytest.raises(BundleError):
            open_bundle(copied)
        edit(copied, sha256={**document["sha256"], "head.onnx": digest})
        with pytest.raises(BundleError, match="vouches for no graph"):
            open_bundle(copied)

    def test_swapped_files(self, copied: Path) -> None:
        (copied / "stem.onnx").rename(copied / "aside")
        (copied / "selector.onnx").rename(copied / "stem.onnx")
        (copied / "aside").rename(copied / "selector.onnx")
        with pytest.raises(BundleError, match="SHA-256"):
            open_bundle(copied)

    def test_swapped_stages(self, copied: Path) -> None:
        """With every hash right, the graphs' own signatures tell."""
        edit(
            copied,
            files={
                "stem": "selector.onnx",
                "selector": "stem.onnx",
                "trunk": "trunk.onnx",
                "head": "head.onnx",
            },
        )
        with pytest.raises(BundleError, match=r"stem: the graph's inputs"):
            open_bundle(copied)

    def test_another_shape_than_the_graphs(self, copied: Path) -> None:
        text = (copied / MANIFEST_NAME).read_text()
        manifest = read_manifest(copied)
        stages = list(manifest.pipeline.stages)
        stem = stages[0]
        frame = dataclasses.replace(stem.inputs[0], shape=(1, 64, 64, 3))
        stages[0] = dataclasses.replace(stem, inputs=(frame, *stem.inputs[1:]))
        pipeline = dataclasses.replace(manifest.pipeline, stages=tuple(stages))
        write_manifest(copied, dataclasses.replace(manifest, pipeline=pipeline))
        assert (copied / MANIFEST_NAME).read_text() != text
        with pytest.raises(BundleError, match="contradicts itself: frames has"):
            open_bundle(copied)
        head = manifest.pipeline.stages[-1]
        queries = dataclasses.replace(head.outputs[-1], shape=(1, 2, 3))
        stages = [*manifest.pipeline.stages[:-1]]
        stages.append(dataclasses.replace(head, outputs=(*head.outputs[:-1], queries)))
        pipeline = dataclasses.replace(manifest.pipeline, stages=tuple(stages))
        write_manifest(copied, dataclasses.replace(manifest, pipeline=pipeline))
        with pytest.raises(BundleError, match=r"head: the graph's outputs"):
            open_bundle(copied)

    def test_a_graph_that_is_none(self, copied: Path) -> None:
        """Right by its hash, but not ONNX."""
        (copied / "head.onnx").write_bytes(b"not a graph")
        manifest = json.loads((copied / MANIFEST_NAME).read_text())
        edit(
            copied,
            sha256={**manifest["sha256"], "head.onnx": hash_file(copied / "head.onnx")},
        )
        with pytest.raises(BundleError, match="cannot load"):
            open_bundle(copied)


class TestBackends:
    @pytest.mark.parametrize("backend", ["tpu", "cuda", "CPU", ""])
    def test_unknown(self, mini_bundle: ExportedMini, backend: str) -> None:
        with pytest.raises(BackendError, match=f"unknown backend '{backend}'.* onnxruntime-cuda"):
            open_bundle(mini_bundle.folder, backend)

    def test_threads(self, mini_bundle: ExportedMini) -> None:
        one = open_bundle(mini_bundle.folder, threads=1).session()
        default = VideoSession(runner_of(mini_bundle))
        for frame in frames(2, 1):
            assert_same_tracks(one.step(frame).tracks, default.step(frame).tracks)


class TestExport:
    """How a bundle appears, or does not. The graphs are those of the fixture, to save minutes."""

    def test_stopped_between_stages(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        """A real export, interrupted by Ctrl-C once the stem is written."""

        def progress(text: str) -> None:
            if "selector" in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_bundle(mini_bundle.prepared, tmp_path / "export" / "one", progress=progress)
        assert list((tmp_path / "export").iterdir()) == []

    @pytest.mark.usefixtures("cached_graphs")
    def test_a_folder_that_fills_while_it_exports(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        folder = tmp_path / "one"

        def progress(text: str) -> None:
            folder.mkdir(exist_ok=True)
            (folder / "thesis.txt").write_text("precious")

        with pytest.raises(ExportError, match=r"holds more than a bundle \(thesis\.txt"):
            export_bundle(mini_bundle.prepared, folder, progress=progress)
        assert [path.name for path in tmp_path.iterdir()] == ["one"]
        assert [path.name for path in folder.iterdir()] == ["thesis.txt"]

    @pytest.mark.parametrize("error", [ExportError("no"), KeyboardInterrupt(), RuntimeError()])
    @pytest.mark.usefixtures("cached_graphs")
    def test_stopped_in_the_verification(
        self, mini_bundle: ExportedMini, tmp_path: Path, error: BaseException
    ) -> None:
        def verify(folder: Path, manifest: Manifest, inspected: Manifest) -> NoReturn:
            assert (folder / manifest.files["head"]).is_file()
            assert (folder / inspected.files["head"]).is_file()
            raise error

        with pytest.raises(type(error)):
            export_bundle(mini_bundle.prepared, tmp_path / "one", verify=verify)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("cached_graphs")
    def test_verification_of_other_weights_fails(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        checkpoint = tmp_path / "other.safetensors"
        key = "detector.panoptic_head.cls_embed.bias"
        write_mini_checkpoint(checkpoint, changes={key: np.zeros(6, np.float32)})
        recipe = write_mini_recipe(tmp_path / "mini.toml")
        other = prepare_budgets(checkpoint, recipe, None)
        verifier = BundleVerifier(other, MIN_FRAMES)
        with pytest.raises(ExportError, match=r"class_logits differs by .* of its spread"):
            export_bundle(mini_bundle.prepared, tmp_path / "out" / "one", verify=verifier)
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.usefixtures("cached_graphs")
    def test_verification_is_written_down(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        verifier = BundleVerifier(mini_bundle.prepared, MIN_FRAMES)
        exported = export_bundle(mini_bundle.prepared, tmp_path / "one", verify=verifier)
        seen = read_manifest(tmp_path / "one").verification
        assert seen is not None
        assert verifier.report is not None
        assert seen == json.loads(json.dumps(verifier.report.summary()))
        assert seen["frames"] == MIN_FRAMES
        assert set(seen["equal_tokens"].values()) == {1.0}
        assert seen["largest_difference"][SHIPPED_HEAD] == 0
        assert not (exported.folder / INSPECTED_HEAD).exists()

    @pytest.mark.usefixtures("cached_graphs")
    def test_an_older_bundle_is_replaced(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        folder = tmp_path / "one"
        export_bundle(mini_bundle.prepared, folder)
        (folder / "trunk.onnx").write_bytes(b"damaged")
        export_bundle(mini_bundle.prepared, folder)
        assert [path.name for path in tmp_path.iterdir()] == ["one"]
        assert read_manifest(folder).verification is None

    @pytest.mark.usefixtures("cached_graphs")
    def test_a_failed_export_keeps_the_older_bundle(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        folder = tmp_path / "one"
        export_bundle(mini_bundle.prepared, folder)

        def verify(*_: object) -> NoReturn:
            raise ExportError("no")

        with pytest.raises(ExportError):
            export_bundle(mini_bundle.prepared, folder, verify=verify)
        assert read_manifest(folder).name == "one"
        assert [path.name for path in tmp_path.iterdir()] == ["one"]

    def test_a_folder_with_other_things_is_refused(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        (tmp_path / "photo.jpg").write_text("precious")
        with pytest.raises(ExportError, match=r"photo\.jpg.*choose another"):
            export_bundle(mini_bundle.prepared, tmp_path)
        assert (tmp_path / "photo.jpg").read_text() == "precious"

    def test_a_bundle_with_other_things_is_refused(
        self, mini_bundle: ExportedMini, copied: Path
    ) -> None:
        (copied / "notes.txt").write_text("precious")
        with pytest.raises(ExportError, match=r"notes\.txt.*choose another"):
            export_bundle(mini_bundle.prepared, copied)
        assert (copied / "notes.txt").read_text() == "precious"
        assert open_bundle(copied).classes == mini_config().classes

    @pytest.mark.parametrize("place", ["file", "file/one"])
    @pytest.mark.usefixtures("cached_graphs")
    def test_a_file_in_the_way_is_refused(
        self, mini_bundle: ExportedMini, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "file").write_text("precious")
        with pytest.raises(ExportError):
            export_bundle(mini_bundle.prepared, tmp_path / place)
        assert (tmp_path / "file").read_text() == "precious"

    @pytest.mark.usefixtures("cached_graphs")
    def test_an_empty_folder_is_used(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        export_bundle(mini_bundle.prepared, tmp_path / "one")
        assert read_manifest(tmp_path / "one").name == "one"

    def test_a_grid_sample_is_refused(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        """The reference's sampler, exported for real."""
        whole = mini_bundle.prepared
        plan = plan_pipeline(reference(mini_bundle), INPUT_SIZE, whole.budgets, SLOTS)
        prepared = dataclasses.replace(whole, plan=plan)
        with pytest.raises(ExportError, match="GridSample"):
            export_bundle(prepared, tmp_path / "export" / "one")
        assert list((tmp_path / "export").iterdir()) == []

    def test_leftovers_of_a_killed_export_are_no_bundle(
        self, mini_bundle: ExportedMini, tmp_path: Path
    ) -> None:
        shutil.copytree(mini_bundle.folder, tmp_path / "export" / ".one.abc" / "bundle")
        with pytest.raises(BundleError, match="no model in"):
            newest_model((tmp_path / "engines", tmp_path / "export"))

    def test_graphs_are_clean_and_pass_the_checker(
        self,
        mini_bundle: ExportedMini,
        mini_dense_bundle: ExportedMini,
        mini_bundle_of_3: ExportedMini,
    ) -> None:
        for exported in (mini_bundle, mini_dense_bundle, mini_bundle_of_3):
            for stage, file in exported.manifest.files.items():
                graph = onnx.load(exported.folder / file)
                onnx.checker.check_model(graph, full_check=True)
                lint_graph(stage, graph)
                assert not graph.functions
                assert [opset.domain for opset in graph.opset_import] == [""]

    def test_a_module_that_cannot_be_exported(self, mini_bundle: ExportedMini) -> None:
        class Unexportable(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x if bool(x.sum() > 0) else -x

        spec = TensorSpec("x", "float32", (1, 4))
        stage = StageSpec("odd", (spec,), (dataclasses.replace(spec, name="y"),))
        with pytest.raises(ExportError, match="the stage odd cannot be exported"):
            export_graph(Unexportable(), stage)

    def test_ties_of_an_exported_ranking_go_to_the_lowest_position(self, tmp_path: Path) -> None:
        class Best(torch.nn.Module):
            def forward(self, scores: torch.Tensor) -> torch.Tensor:
                return best(scores, 5)

        stage = StageSpec(
            "best",
            (TensorSpec("scores", "float32", (2, 64)),),
            (TensorSpec("kept", "int64", (2, 5)),),
        )
        onnx.save(export_graph(Best(), stage), tmp_path / "best.onnx")
        import onnxruntime

        session = onnxruntime.InferenceSession(
            str(tmp_path / "best.onnx"), providers=["CPUExecutionProvider"]
        )
        scores = np.zeros((2, 64), np.float32)
        scores[1, 20:] = 1
        (kept,) = session.run(None, {"scores": scores})
        assert kept.tolist() == [[0, 1, 2, 3, 4], [20, 21, 22, 23, 24]]


class TestLint:
    """What no graph may hold."""

    def test_a_clean_graph(self) -> None:
        lint_graph("stage", graph([helper.make_node("Relu", ["x"], ["y"])]))

    @pytest.mark.parametrize(
        "operator", ["GridSample", "NonZero", "Compress", "Unique", "NonMaxSuppression"]
    )
    def test_forbidden_operators(self, operator: str) -> None:
        with pytest.raises(ExportError, match=rf"graph of stage fails the lint: {operator}: "):
            lint_graph("stage", graph([helper.make_node(operator, ["x", "x"], ["y"])]))

    @pytest.mark.parametrize("operator", ["ScatterElements", "ScatterND"])
    def test_scatter_with_a_reduction(self, operator: str) -> None:
        def node(**attributes: str) -> onnx.NodeProto:
            return helper.make_node(operator, ["x", "i", "u"], ["y"], **attributes)

        lint_graph("stage", graph([node()]))
        lint_graph("stage", graph([node(reduction="none")]))
        with pytest.raises(ExportError, match=f"{operator} with reduction add"):
            lint_graph("stage", graph([node(reduction="add")]))

    @pytest.mark.parametrize("square", [("Pow", ["c", "two"]), ("Mul", ["c", "c"])])
    def test_decomposed_layer_norm(self, square: tuple[str, list[str]]) -> None:
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["m"]),
            helper.make_node("Sub", ["x", "m"], ["c"]),
            helper.make_node(square[0], square[1], ["s"]),
            helper.make_node("ReduceMean", ["s"], ["v"]),
        ]
        with pytest.raises(ExportError, match="decomposed normalisation"):
            lint_graph("stage", graph(nodes))
        lint_graph("stage", graph(nodes[:3]))

    @pytest.mark.parametrize("shape", [[], [1]])
    def test_top_k(self, shape: list[int]) -> None:
        def top_k(k: int) -> onnx.ModelProto:
            constant = helper.make_tensor("k", TensorProto.INT64, shape, [k])
            return graph([helper.make_node("TopK", ["x", "k"], ["v", "y"])], [constant])

        lint_graph("stage", top_k(MAX_BUDGET))
        with pytest.raises(ExportError, match="k is no constant"):
            lint_graph("stage", graph([helper.make_node("TopK", ["x", "x"], ["v", "y"])]))
        with pytest.raises(ExportError, match=f"TopK of {MAX_BUDGET + 1}"):
            lint_graph("stage", top_k(MAX_BUDGET + 1))

    def test_nested_graphs(self) -> None:
        inner = helper.make_graph(
            [helper.make_node("NonZero", ["x"], ["z"])],
            "inner",
            [],
            [helper.make_tensor_value_info("z", TensorProto.INT64, None)],
        )
        node = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)
        with pytest.raises(ExportError, match="NonZero"):
            lint_graph("stage", graph([node]))

    def test_foreign_operators(self) -> None:
        model = graph([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")])
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        with pytest.raises(ExportError, match=r"domain 'com\.microsoft'"):
            lint_graph("stage", model)

    def test_every_finding_is_named(self) -> None:
        nodes = [
            helper.make_node("NonZero", ["x"], ["y"]),
            helper.make_node("GridSample", ["x", "x"], ["z"]),
        ]
        with pytest.raises(ExportError, match=r"GridSample.*; NonZero"):
            lint_graph("stage", graph(nodes))


def graph(
    nodes: list[onnx.NodeProto], constants: Sequence[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
            list(constants),
        )
    )


@pytest.fixture
def copied(mini_bundle: ExportedMini, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(mini_bundle.folder, tmp_path / "copy" / "one"))


def edit(folder: Path, **fields: object) -> None:
    """Changes fields of a manifest as they are in JSON."""
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def cached_graphs(mini_bundle: ExportedMini, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `export_bundle` take the graphs that the fixture has made instead of tracing again."""
    monkeypatch.setattr(bundle_module, "export_graph", graphs_of(mini_bundle))

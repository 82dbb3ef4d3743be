"""The whole model, post-processing and tracker against the recorded runs, state fed back.

Nothing is forced: this is the free-running comparison of the recordings' README.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.parity_data import (
    DENSE_TINY,
    RECORDINGS,
    VPP_TINY,
    Recording,
    load_log,
    load_recording,
    sample,
    unpack_masks,
)
from vpp_deploy.checkpoints.formula import Size, write_formula_checkpoint
from vpp_deploy.checkpoints.load import load_model
from vpp_deploy.models.head import HeadOutput
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.tokens import put
from vpp_deploy.models.vpp import FrameOutput, VppModel
from vpp_deploy.partition.plan import plan_pipeline
from vpp_deploy.recipes import ModelSettings
from vpp_deploy.results import Tracks
from vpp_deploy.runtime.detections import Detections
from vpp_deploy.runtime.postprocess import detect
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.runtime.tracker import Tracker, TrackMemory
from vpp_deploy.video.source import Frame

Array = NDArray[Any]

ORIGINALS = Path(__file__).parents[3] / "shared" / "parity"
SIZES: dict[str, Size] = {VPP_TINY: "tiny", DENSE_TINY: "dense-tiny"}
INPUT_SIZE = (128, 160)

TOLERANCE = 2e-3
SHARE_BEYOND = 0.01
SCORE_TOLERANCE = 5e-4
MAY_SWAP = 1e-4
MIN_IOU = 0.99
AREA_TOLERANCE = 10


@dataclass(frozen=True)
class Step:
    """What we compute for one frame, under the recordings' names where they have one."""

    values: dict[str, Array]
    masks: Array
    memory: TokenMemory | None
    detections: Detections
    tracks: Tracks
    track_memory: TrackMemory
    next_id: int


class _Probe:
    """Watches a model's blocks: the tokens at their entries, and Map-SM's scores."""

    def __init__(self, model: VppModel) -> None:
        self.model = model
        self.injected: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.map_scores: list[Tensor] = []
        self.class_logits: list[Tensor] = []
        for interaction in model.backbone.interactions:
            assert isinstance(interaction.injector, nn.Module)
            interaction.injector.register_forward_hook(lambda m, i, out: self.injected.append(out))
        for block in model.backbone.blocks:
            block.register_forward_hook(lambda m, i, out: self.rows.append(out))
        if model.config.pruned:
            selector = model.backbone.interactions[0].matching_module
            assert isinstance(selector, nn.Module)
            selector.register_forward_pre_hook(self._score)

    def _score(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, memory, prior, grid, *_ = inputs
        map_scores: Any = module.map_scores
        self.map_scores.append(map_scores(x, memory, prior, grid))

    def clear(self) -> None:
        for values in (self.injected, self.rows, self.map_scores):
            values.clear()

    def tokens(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(12, N, C) all tokens at the entry of each block, and (N, C) after the last."""
        entries = []
        x = self.injected[0]
        for i, rows in enumerate(self.rows):
            if i % 3 == 0:
                x = self.injected[i // 3]
            entries.append(x)
            x = put(x, kept[i // 3], rows) if i and kept else rows
        return torch.cat(entries), x[0]

    def selector_margins(self, entries_12NC: Tensor) -> Tensor:
        """(3, N) what the selective modules say of every token, dropped ones included."""
        modules = self.model.backbone.selective_modules
        return torch.cat([m(entries_12NC[3 * i : 3 * i + 1]) for i, m in enumerate(modules, 1)])


@pytest.fixture(scope="module", params=RECORDINGS)
def name(request: pytest.FixtureRequest) -> str:
    recording: str = request.param
    return recording


@pytest.fixture(scope="module")
def model(name: str, tmp_path_factory: pytest.TempPathFactory) -> VppModel:
    path = tmp_path_factory.mktemp("formula") / "model.safetensors"
    write_formula_checkpoint(path, SIZES[name])
    return load_model(path, ModelSettings())[0]


@pytest.fixture(scope="module")
def steps(name: str, model: VppModel) -> list[Step]:
    """Every frame of the recording through `VppModel.forward`."""
    return list(_run(model, load_recording(name)["frames_rgb"]))


@pytest.fixture(
    params=[
        "trimmed",
        pytest.param(
            "original",
            marks=pytest.mark.skipif(not ORIGINALS.is_dir(), reason="no ../shared/parity here"),
        ),
    ]
)
def recording(request: pytest.FixtureRequest, name: str) -> Recording:
    if request.param == "trimmed":
        return load_recording(name)
    with np.load(ORIGINALS / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def _run(model: VppModel, frames_rgb: Array) -> Iterator[Step]:
    probe = _Probe(model)
    tracker = Tracker(None)
    memories: tuple[TokenMemory | None, ...] = (None,)
    for t, frame in enumerate(frames_rgb):
        probe.clear()
        carried = tracker.track_queries()
        valid = np.ones(len(carried), bool)
        with torch.inference_mode():
            out = model(
                torch.from_numpy(frame)[None],
                torch.tensor([INPUT_SIZE]),
                memories,
                torch.from_numpy(carried)[None],
                torch.from_numpy(valid)[None],
            )
            values = _values(probe, out)
        memories = out.memories
        head = out.head
        detections = detect(
            head.class_logits_BQK[0].numpy(),
            _mask_logits(head).numpy(),
            valid,
            INPUT_SIZE,
            INPUT_SIZE,
            INPUT_SIZE,
        )
        update = tracker.update(t, detections, head.queries_BQD[0].numpy())
        yield Step(
            values,
            _masks(out, probe),
            memories[0],
            detections,
            update.tracks,
            tracker.memory,
            tracker.next_id,
        )


def _values(probe: _Probe, out: FrameOutput) -> dict[str, Array]:
    head = out.head
    entries, last = probe.tokens(out.kept[0])
    values = {f"feat{i}": level[0] for i, level in enumerate(out.features, 1)}
    values |= {
        "x_before_blocks": entries,
        "x_last": last,
        "mask_features": head.mask_features_BDHW[0],
        "cls_last_layer": head.class_logits_BQK[0],
        "mask_logits": _mask_logits(head),
        "queries": head.queries_BQD[0],
    }
    if probe.map_scores:
        values["mm_soft"] = probe.map_scores[0][0].sigmoid()
    if probe.model.config.pruned:
        values["sm_margins"] = probe.selector_margins(entries)
    return {key: value.numpy() for key, value in values.items()}


def _mask_logits(head: HeadOutput) -> torch.Tensor:
    return torch.einsum("qd,dhw->qhw", head.mask_embeds_BQD[0], head.mask_features_BDHW[0])


def _masks(out: FrameOutput, probe: _Probe) -> Array:
    """(12, N) which tokens ran in each block, by the rows that the blocks were given."""
    num_tokens = probe.rows[0].shape[1]
    masks = np.ones((len(probe.rows), num_tokens), bool)
    for i, rows in enumerate(probe.rows):
        if i and out.kept[0]:
            positions = out.kept[0][i // 3]
            assert positions.shape == rows.shape[:2]
            masks[i] = np.isin(np.arange(num_tokens), positions.numpy())
        else:
            assert rows.shape[1] == num_tokens
    return masks


def _recorded(recording: Recording, key: str, ours: Array) -> tuple[Array, Array] | None:
    """(ours, recorded): the whole array or its sample, whichever this recording holds."""
    if key in recording:
        return ours, recording[key].astype(np.float32)
    if f"{key}_sample" in recording:
        return sample(np.ascontiguousarray(ours)), recording[f"{key}_sample"].astype(np.float32)
    return None


def test_tokens_of_every_block(name: str, recording: Recording, steps: list[Step]) -> None:
    for t, step in enumerate(steps):
        if name == DENSE_TINY:
            assert step.masks.all()
            continue
        np.testing.assert_array_equal(step.masks, recording[f"f{t}/mask"])
        np.testing.assert_array_equal(step.masks.sum(1), recording[f"f{t}/kept"])


def test_counts_are_those_of_the_log(name: str, steps: list[Step]) -> None:
    for step, line in zip(steps, load_log(name), strict=True):
        if name == VPP_TINY:
            assert step.masks.sum(1).tolist() == line["kept"]
        assert len(step.detections) == line["n_det"]
        assert sorted(step.tracks.ids.tolist()) == sorted(line["ids"])


def test_temporal_state(
    name: str, recording: Recording, steps: list[Step], model: VppModel
) -> None:
    if name == DENSE_TINY:
        assert all(step.memory is None for step in steps)
        return
    map_selector: Any = model.backbone.interactions[0].matching_module
    for t, step in enumerate(steps):
        memory = step.memory
        assert memory is not None
        ran = np.flatnonzero(recording[f"f{t}/selector"])
        np.testing.assert_array_equal(memory.positions_BK[0].numpy(), ran)
        _assert_near(memory.tokens_BKC[0].numpy(), recording[f"f{t}/x_ref"][ran])
        mapped = torch.from_numpy(recording[f"f{t}/x_to_map"][ran])[None]
        _assert_near(memory.scores_BK.numpy(), map_selector.token_scores(mapped).numpy())


@pytest.mark.parametrize(
    "key", ["feat1", "feat2", "feat3", "feat4", "x_before_blocks", "x_last", "mask_features"]
)
def test_features(recording: Recording, steps: list[Step], key: str) -> None:
    compared = 0
    for t, step in enumerate(steps):
        pair = _recorded(recording, f"f{t}/{key}", step.values[key])
        if pair is not None:
            _assert_near(*pair)
            compared += 1
    assert compared


def test_scores_of_the_selectors(name: str, recording: Recording, steps: list[Step]) -> None:
    if name == DENSE_TINY:
        pytest.skip("a dense model has no selectors")
    for t, step in enumerate(steps):
        logs = recording[f"f{t}/sm_logsoftmax"]
        _assert_near(step.values["sm_margins"], logs[..., 0] - logs[..., 1])
        assert ("mm_soft" in step.values) == (t > 0)
        if t:
            _assert_near(step.values["mm_soft"], recording[f"f{t}/mm_soft"])


@pytest.mark.parametrize("key", ["cls_last_layer", "queries", "mask_logits"])
def test_predictions(recording: Recording, steps: list[Step], key: str) -> None:
    for t, step in enumerate(steps):
        whole = recording.get(f"f{t}/cls_all_layers")
        if key == "cls_last_layer" and whole is not None:
            pair = (step.values[key], whole[-1])
        else:
            found = _recorded(recording, f"f{t}/{key}", step.values[key])
            assert found is not None
            pair = found
        beyond = np.abs(pair[0] - pair[1]) > TOLERANCE
        assert beyond.mean() <= SHARE_BEYOND


def test_detections(recording: Recording, steps: list[Step]) -> None:
    for t, step in enumerate(steps):
        ours, theirs = step.detections, {n: recording[f"f{t}/det_{n}"] for n in _DET}
        rows = _match(
            list(zip(ours.query_ids.tolist(), ours.labels.tolist(), strict=True)),
            list(zip(theirs["query_ids"].tolist(), theirs["labels"].tolist(), strict=True)),
            theirs["scores"],
        )
        _assert_instances(ours, rows, theirs)


def test_tracks(recording: Recording, steps: list[Step]) -> None:
    for t, step in enumerate(steps):
        _assert_tracks(step.tracks, recording, t)
        memory = step.track_memory
        np.testing.assert_array_equal(memory.ids, recording[f"f{t}/memory_ids"])
        np.testing.assert_array_equal(memory.last_frames, recording[f"f{t}/memory_last_frame"])
        assert step.next_id == recording[f"f{t}/num_tracks"]
        beyond = np.abs(memory.queries - recording[f"f{t}/memory_feats"]) > TOLERANCE
        assert beyond.mean() <= SHARE_BEYOND


def test_session_over_the_published_plan(name: str, model: VppModel) -> None:
    recording = load_recording(name)
    runner = TorchRunner(plan_pipeline(model, INPUT_SIZE, None, None))
    session = VideoSession(runner)
    assert session.plan(INPUT_SIZE).resized == INPUT_SIZE
    for t, rgb in enumerate(recording["frames_rgb"]):
        result = session.step(Frame(t, None, rgb))
        assert (result.index, result.first, result.tracks_dropped) == (t, t == 0, ())
        _assert_tracks(result.tracks, recording, t)
        if name == VPP_TINY:
            _assert_kept(runner, recording[f"f{t}/mask"], first=t == 0)


def _assert_kept(runner: TorchRunner, masks: Array, first: bool) -> None:
    # The state has moved on: what was `next_ref_positions` is `ref_positions` now.
    for block, tensor in ((1, "kept_1_2"), (3, "ref_positions"), (6, "kept_6_8"), (9, "kept_9_11")):
        if block == 1 and first:
            assert masks[1].all()
            continue
        np.testing.assert_array_equal(runner.download(tensor)[0], np.flatnonzero(masks[block]))


_DET = ("query_ids", "labels", "scores", "bboxes", "areas")


def _assert_near(ours: Array, recorded: Array) -> None:
    assert ours.shape == recorded.shape
    assert np.abs(ours - recorded).max(initial=0) <= TOLERANCE


def _match(ours: list[Any], theirs: list[Any], scores: Array) -> list[int]:
    """For each of theirs the row of ours; the order may differ by neighbours that nearly tie."""
    assert sorted(ours) == sorted(theirs)
    rows = [ours.index(key) for key in theirs]
    for place, row in enumerate(rows):
        assert abs(float(scores[place]) - float(scores[row])) < MAY_SWAP or place == row
    return rows


def _assert_instances(ours: Detections | Tracks, rows: list[int], theirs: dict[str, Array]) -> None:
    np.testing.assert_array_equal(ours.query_ids[rows], theirs["query_ids"])
    np.testing.assert_array_equal(ours.labels[rows], theirs["labels"])
    np.testing.assert_allclose(ours.scores[rows], theirs["scores"], rtol=0, atol=SCORE_TOLERANCE)
    masks = ours.pixels(rows) if isinstance(ours, Detections) else ours.masks[rows]
    areas = masks.sum((1, 2))
    assert np.abs(areas - theirs["areas"]).max(initial=0) <= AREA_TOLERANCE
    assert np.abs(ours.boxes[rows] - theirs["bboxes"]).max(initial=0) <= 2


def _assert_tracks(ours: Tracks, recording: Recording, t: int) -> None:
    theirs = {name: recording[f"f{t}/track_{name}"] for name in ("ids", *_DET)}
    rows = _match(ours.ids.tolist(), theirs["ids"].tolist(), theirs["scores"])
    _assert_instances(ours, rows, theirs)
    packed, shape = (recording[f"f{t}/track_masks_{key}"] for key in ("packed", "shape"))
    for mask, recorded in zip(ours.masks[rows], unpack_masks(packed, shape), strict=True):
        union = (mask | recorded).sum()
        assert not union or (mask & recorded).sum() / union > MIN_IOU

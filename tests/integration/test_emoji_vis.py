"""The trained example: its data, its losses, its gates, and its products."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import examples
from examples.emoji_vis.artwork import CLASSES, FONT
from examples.emoji_vis.gates import Shares, gated_trunk
from examples.emoji_vis.losses import FrameTargets, Prediction, assign, frame_loss
from examples.emoji_vis.network import CONFIG, FRAME_SIZE, INPUT_SIZE, new_model, save_weights
from examples.emoji_vis.photos import photographs
from examples.emoji_vis.schedule import PHASES, phase_at
from examples.emoji_vis.tracks import TrackQueries, next_tracks
from vpp_deploy.checkpoints.load import load_model
from vpp_deploy.errors import VideoError
from vpp_deploy.evaluation.dataset import read_dataset
from vpp_deploy.models.backbone import Selection
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.recipes import ModelSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

assert CONFIG.keep_ratio is not None
SHARES = Shares(CONFIG.keep_ratio, 0.56, 0.448, 0.358)


def _has_material() -> bool:
    try:
        return FONT.exists() and all(map(photographs, ("train", "val", "test")))
    except VideoError:
        return False


needs_material = pytest.mark.skipif(
    not _has_material(), reason="needs the font and the photographs, see examples/emoji_vis"
)


@pytest.fixture(scope="module")
def model() -> VppModel:
    torch.manual_seed(0)
    model = new_model(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attention_weights.weight", "sampling_offsets.weight")):
                parameter.normal_(std=0.05)
    return model.eval()


def _stem(model: VppModel, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, *INPUT_SIZE, generator=generator)
    stem = model.backbone.stem(image, model.backbone.constants(INPUT_SIZE))
    return stem.tokens_BNC, stem.pyramid_BMC


def test_gates_keep_what_the_package_keeps(model: VppModel) -> None:
    backbone = model.backbone
    constants, grid = backbone.constants(INPUT_SIZE), backbone.grid(INPUT_SIZE)
    first, second = _stem(model, 0), _stem(model, 1)
    k1, k3, k6, k9 = (int(240 * share) for share in SHARES.as_tuple())
    with torch.no_grad():
        gated_1 = gated_trunk(backbone, *first, None, SHARES, 0.0, constants, grid)
        gated_2 = gated_trunk(backbone, *second, gated_1.memory, SHARES, 0.0, constants, grid)
        everything = torch.arange(240).expand(2, -1)
        selection = Selection(counts=(k3, k6, k9))
        trunk_1 = backbone.trunk(*first, everything, selection, constants, grid)
        assert trunk_1.memory is not None
        keep = backbone.select(second[0], trunk_1.memory, constants, grid, torch.zeros(2, 240))
        trunk_2 = backbone.trunk(*second, keep, selection, constants, grid)
    for gated, trunk in ((gated_1, trunk_1), (gated_2, trunk_2)):
        torch.testing.assert_close(gated.tokens_BNC, trunk.tokens_BNC, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gated.pyramid_BMC, trunk.pyramid_BMC, rtol=1e-4, atol=1e-4)
    for mask, positions in zip(gated_2.kept, (keep, *trunk_2.kept), strict=True):
        assert torch.equal(mask.nonzero()[:, 1].reshape(2, -1), positions)
    assert [mask.sum(1).tolist() for mask in gated_2.kept] == [
        [k1] * 2,
        [k3] * 2,
        [k6] * 2,
        [k9] * 2,
    ]


def test_dropped_tokens_teach_their_selector_too(model: VppModel) -> None:
    backbone = model.backbone
    constants, grid = backbone.constants(INPUT_SIZE), backbone.grid(INPUT_SIZE)
    output = gated_trunk(backbone, *_stem(model, 0), None, SHARES, 0.0, constants, grid)
    last_scores, last_kept = output.scores[-1], output.kept[-1]
    assert last_scores is not None
    (gradient,) = torch.autograd.grad(output.pyramid_BMC.square().sum(), last_scores)
    allowed = output.kept[-2]
    assert (gradient[allowed & ~last_kept] != 0).all()
    assert (gradient[last_kept] != 0).all()


def _prediction(num_queries: int, masks: dict[int, torch.Tensor]) -> Prediction:
    logits = torch.full((1, num_queries, 8, 8), -8.0)
    for query, mask in masks.items():
        logits[0, query] = 16 * mask - 8
    return Prediction(torch.zeros(1, num_queries, 4), logits)


def _squares(*corners: int) -> torch.Tensor:
    masks = torch.zeros(len(corners), 8, 8)
    for mask, corner in zip(masks, corners, strict=True):
        mask[corner : corner + 3, corner : corner + 3] = 1
    return masks


def test_objects_go_to_their_tracks_and_else_to_the_nearest_query() -> None:
    masks = _squares(0, 2, 5)
    targets = FrameTargets(torch.tensor([4, 6, 7]), torch.tensor([0, 1, 2]), masks)
    prediction = _prediction(5, {1: masks[2], 2: masks[0]})
    queries = assign(prediction, 0, targets, num_static=3, track_objects=(6, -1))
    assert queries.tolist() == [2, 3, 1]


def test_the_loss_is_least_for_the_truth() -> None:
    masks = _squares(0, 5)
    targets = [FrameTargets(torch.tensor([0, 1]), torch.tensor([2, 0]), masks)]
    queries = [torch.tensor([1, 0])]
    right = _prediction(3, {1: masks[0], 0: masks[1]})
    right.class_logits_BQK[0, [1, 0, 2], [2, 0, 3]] = 20
    valid = torch.ones(1, 3, dtype=torch.bool)
    assert sum(frame_loss(right, targets, queries, valid, 2.0)) < 0.1
    swapped = frame_loss(right, targets, [torch.tensor([0, 1])], valid, 2.0)
    assert min(swapped) > 1


def test_a_hidden_object_keeps_its_query() -> None:
    tracks = TrackQueries(torch.tensor([[[1.0], [2.0]]]), torch.ones(1, 2).bool(), ((5, -1),))
    queries = torch.tensor([[[10.0], [11.0], [12.0], [13.0]]])
    after = next_tracks(tracks, queries, [{3: 1}], None)
    assert after.objects == ((5, 3),)
    assert after.queries_BTD.flatten().tolist() == [1, 11]
    assert after.valid_BT.all()


def test_clips_of_different_numbers_of_tracks_are_padded() -> None:
    tracks = TrackQueries(torch.zeros(2, 0, 1), torch.zeros(2, 0).bool(), ((), ()))
    after = next_tracks(tracks, torch.tensor([[[7.0]], [[8.0]]]), [{}, {0: 0}], None)
    assert after.queries_BTD.tolist() == [[[0]], [[8]]]
    assert after.valid_BT.tolist() == [[False], [True]]


@pytest.mark.parametrize("pruned", [True, False])
def test_products_are_ordinary_checkpoints(model: VppModel, tmp_path: Path, pruned: bool) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, model.state_dict(), pruned)
    loaded, _ = load_model(path, ModelSettings())
    assert loaded.config.pruned is pruned
    assert loaded.config.classes == CLASSES
    if pruned:  # which reference tokens, a checkpoint does not say
        assert loaded.config == dataclasses.replace(CONFIG, reference_tokens="after_block_2")
    assert path.stat().st_size < 16e6
    for key, tensor in loaded.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, model.state_dict()[key], rtol=1e-3, atol=1e-5)


def test_the_schedule_runs_through_its_phases() -> None:
    starts = np.cumsum([0] + [phase.steps for phase in PHASES])
    for phase, first, after in zip(PHASES, starts[:-1], starts[1:], strict=True):
        assert phase_at(int(first)) == (phase, 0)
        assert phase_at(int(after) - 1) == (phase, phase.steps - 1)
        assert phase.rate_at(phase.warmup) == phase.rate
        assert phase.rate_at(phase.steps) == pytest.approx(phase.last_rate)
    with pytest.raises(IndexError):
        phase_at(int(starts[-1]))


def test_shares_scale_up_to_all() -> None:
    assert Shares(0.8, 0.5, 0.4, 0.1).scaled(2).as_tuple() == (1, 1, 0.8, 0.2)


@needs_material
def test_masks_are_exact() -> None:
    from examples.emoji_vis.motion import Wave
    from examples.emoji_vis.scenes import Look, random_scene

    plain = Look(Wave(1), 1.0, (1.0, 1.0, 1.0), 0.0, 0.0, None)
    for seed in range(4):
        scene = random_scene((seed,), "train", 16 / 9, 24)
        scene = dataclasses.replace(scene, look=plain)
        picture = scene.draw(5, FRAME_SIZE)
        assert picture.masks.sum(0).max() == 1, "an occluded pixel belongs to one object"
        empty = dataclasses.replace(scene, movers=()).draw(5, FRAME_SIZE)
        changed = (picture.image != empty.image).any(2)
        # Half transparent edges change pixels that no mask holds; no pixel farther away.
        around = cv2.dilate(np.asarray(picture.masks.any(0), np.uint8), np.ones((5, 5), np.uint8))
        small = changed & (around == 0)
        assert small.sum() <= 16 * len(scene.movers), "what is too small to count"
        assert (changed[picture.masks.any(0)]).mean() > 0.97


@needs_material
def test_the_nearer_emoji_hides_the_farther() -> None:
    from examples.emoji_vis.scenes import random_scene

    overlaps = 0
    for seed in range(4):
        scene = random_scene((seed,), "train", 16 / 9, 24)
        masks = scene.draw(5, FRAME_SIZE).masks
        alone = [
            dataclasses.replace(scene, movers=(mover,)).draw(5, FRAME_SIZE).masks[0]
            for mover in scene.movers
        ]
        covered = np.zeros(FRAME_SIZE, np.bool_)
        for mask, whole in zip(masks[::-1], alone[::-1], strict=True):
            if mask.any():
                assert np.array_equal(mask, whole & ~covered)
            overlaps += (whole & covered).sum()
            covered |= whole
    assert overlaps > 100


@needs_material
def test_what_training_sees_is_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.emoji_vis import clips
    from examples.emoji_vis.scenes import Scene, random_scene

    scenes: list[Scene] = []

    def recorded(*arguments: Any) -> Scene:
        scenes.append(random_scene(*arguments))
        return scenes[-1]

    monkeypatch.setattr(clips, "random_scene", recorded)
    batch = clips.make_batch((5,), "train", 2, 2)
    height, width = FRAME_SIZE
    for scene, frames, targets in zip(
        scenes, batch.frames_BFHW3.numpy(), batch.targets, strict=True
    ):
        drawn = {}
        for t in range(24):
            picture = scene.draw(t, FRAME_SIZE)
            drawn[picture.image.tobytes()] = picture.masks
        masks = np.stack([drawn[frame[:height, :width].tobytes()] for frame in frames])
        ever = masks.any((0, 2, 3))
        assert targets.labels_n.tolist() == scene.labels[ever].tolist()
        assert targets.present_Fn.tolist() == masks[:, ever].any((2, 3)).tolist()
        cells = masks[:, ever].reshape(2, -1, height // 4, 4, width // 4, 4).mean((3, 5))
        np.testing.assert_allclose(targets.masks_Fnhw[:, :, : height // 4], cells, atol=1e-6)
        assert not targets.masks_Fnhw[:, :, height // 4 :].any()


@needs_material
def test_a_clip_is_the_same_every_time() -> None:
    from examples.emoji_vis.clips import make_batch

    one, same, other = (make_batch((seed,), "train", 1, 2) for seed in (3, 3, 4))
    assert torch.equal(one.frames_BFHW3, same.frames_BFHW3)
    assert not torch.equal(one.frames_BFHW3, other.frames_BFHW3)
    assert not one.frames_BFHW3[:, :, FRAME_SIZE[0] :].any()


@needs_material
def test_a_split_is_written_as_it_was_drawn(tmp_path: Path) -> None:
    from examples.emoji_vis.make_data import write_split
    from examples.emoji_vis.scenes import random_scene

    write_split(tmp_path, "test", 2, 4, FRAME_SIZE, seed=9)
    data = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    assert [c["name"] for c in data["categories"]] == list(CLASSES)
    for video in data["videos"]:
        scene = random_scene((9, video["id"]), "test", 16 / 9, 4)
        pictures = [scene.draw(t, FRAME_SIZE) for t in range(4)]
        masks = np.stack([picture.masks for picture in pictures], 1)
        shown = [i for i, of_frames in enumerate(masks) if of_frames.any()]
        tracks = [a for a in data["annotations"] if a["video_id"] == video["id"]]
        for i, track in zip(shown, tracks, strict=True):
            assert track["category_id"] == scene.labels[i] + 1
            assert track["drawing"] == scene.movers[i].drawing.text
            for mask, *written in zip(
                masks[i], *(track[k] for k in ("segmentations", "bboxes", "areas")), strict=True
            ):
                if mask.any():
                    assert np.array_equal(coco_mask.decode(written[0]), mask)
                    assert written[1:] == [
                        list(cv2.boundingRect(mask.astype(np.uint8))),
                        mask.sum(),
                    ]
                else:
                    assert written == [None, None, None]
        for picture, name in zip(pictures, video["file_names"], strict=True):
            image = cv2.imread(str(tmp_path / "JPEGImages" / name))
            assert image is not None
            assert np.abs(image[..., ::-1].astype(int) - picture.image).mean() < 6


@needs_material
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    from examples.emoji_vis.learner import resume, start

    cpu = torch.device("cpu")
    learner = start(0, cpu)
    learner.advance()
    learner.save(tmp_path / "checkpoint.pt")
    onwards = learner.advance()
    resumed = resume(tmp_path / "checkpoint.pt", cpu)
    assert resumed.advance() == onwards
    for key, tensor in learner.mean.state_dict().items():
        assert torch.equal(tensor, resumed.mean.state_dict()[key]), key


@needs_material
def test_selectors_learn_in_the_sparse_phase() -> None:
    from examples.emoji_vis.learner import start
    from examples.emoji_vis.network import is_selector

    learner = start(0, torch.device("cpu"))
    learner.step = sum(phase.steps for phase in PHASES if not phase.pruned)
    before = {k: t.clone() for k, t in learner.model.state_dict().items()}
    values = learner.advance()
    assert values["guidance"] > 0
    after = learner.model.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before if is_selector(k))
    assert all(torch.equal(before[k], after[k]) for k in before if "running_" in k)


def test_the_test_split_that_comes_with_the_project() -> None:
    labelled = read_dataset(Path(examples.__file__).parent / "emoji_vis" / "test")
    assert tuple(labelled.categories.values()) == CLASSES
    assert {video.size for video in labelled.videos} == {FRAME_SIZE}
    assert labelled.num_frames == 12 * 16

"""What the example's model is taught, and how it is measured."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.emoji_vis import measure as measuring
from examples.emoji_vis import unroll
from examples.emoji_vis.clips import Batch, Targets
from examples.emoji_vis.gates import GatedOutput, Shares, selector_loss
from examples.emoji_vis.losses import FrameTargets, Prediction, frame_loss
from examples.emoji_vis.network import FRAME_SIZE, INPUT_SIZE, new_model
from examples.emoji_vis.schedule import WANTED
from examples.emoji_vis.tracks import TrackQueries
from examples.emoji_vis.unroll import Found, Pruning, Step
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vpp import VppModel

HALF = Shares(0.5, 0.5, 0.5, 0.5)
PRUNING = Pruning(WANTED, WANTED, 0.0)


@pytest.fixture(scope="module")
def model() -> VppModel:
    return new_model(0)


def _gated(*scores: Tensor | None) -> GatedOutput:
    nothing = torch.empty(0)
    return GatedOutput(nothing, nothing, TokenMemory(nothing, nothing, nothing), scores, ())


def test_guidance_raises_patches_with_objects_and_lowers_the_rest() -> None:
    front = torch.tensor([[True] * 3 + [False] * 7])
    level = torch.zeros(1, 10, requires_grad=True)
    guidance, _ = selector_loss(_gated(None, level, level, level), front, HALF)
    (gradient,) = torch.autograd.grad(guidance, level)
    # The rest gets what three objects' patches of ten leave of a half. Three selectors are summed.
    wanted = torch.where(front, 0.95, (0.5 - 0.3) / 0.7)
    torch.testing.assert_close(gradient, 3 * (0.5 - wanted) / 10)
    towards = torch.where(front, 0.5, -0.5)
    right, _ = selector_loss(_gated(None, towards, towards, towards), front, HALF)
    wrong, _ = selector_loss(_gated(None, -towards, -towards, -towards), front, HALF)
    assert right < guidance < wrong


@pytest.mark.parametrize(("above", "direction"), [(10, 1), (7, 1), (5, 0), (2, -1), (0, -1)])
def test_the_ratio_loss_leads_to_the_share(above: int, direction: int) -> None:
    score = torch.tensor([[1.0] * above + [-1.0] * (10 - above)], requires_grad=True)
    _, ratio = selector_loss(
        _gated(None, score, score, score), torch.zeros(1, 10, dtype=torch.bool), HALF
    )
    assert ratio.item() == pytest.approx(3 * (above / 10 - 0.5) ** 2, abs=1e-6)
    (gradient,) = torch.autograd.grad(ratio, score)
    if direction:
        assert (gradient.sign() == direction).all()


def test_empty_track_slots_are_not_taught() -> None:
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    prediction = Prediction(logits, torch.zeros(1, 3, 8, 8))
    targets = [FrameTargets(torch.tensor([0]), torch.tensor([2]), torch.ones(1, 8, 8))]
    valid = torch.tensor([[True, True, False]])
    loss = frame_loss(prediction, targets, [torch.tensor([0])], valid, 1.0).classes
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[~valid].any()
    assert (gradient[valid] != 0).all()


def _batch() -> Batch:
    """Two objects: one leaves after the first frame, the other is first seen in the second."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (1, 2, *INPUT_SIZE, 3), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(2, 2, INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4)
    masks[0, 0, 8:16, 12:16] = 1
    masks[1, 1, 20:24, 40:46] = 1
    masks[1, 1, 24:28, 40:44] = 0.25
    targets = Targets(torch.tensor([3, 1]), masks, torch.eye(2, dtype=torch.bool))
    return Batch(frames, torch.tensor(FRAME_SIZE), (targets,))


@torch.no_grad()
def test_every_frame_is_taught_its_own_objects(
    model: VppModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fronts: list[Tensor] = []

    def recorded(output: GatedOutput, front: Tensor, shares: Shares) -> tuple[Tensor, Tensor]:
        assert shares == WANTED
        fronts.append(front.reshape(INPUT_SIZE[0] // 16, INPUT_SIZE[1] // 16))
        return selector_loss(output, front, shares)

    monkeypatch.setattr(unroll, "selector_loss", recorded)
    batch = _batch()
    step = unroll.run_clips(model, batch, PRUNING, None)
    (clip,) = batch.targets
    for f, (frame, label) in enumerate(zip(step.frames, (3, 1), strict=True)):
        (targets,) = frame.targets
        assert targets.objects.tolist() == [f]
        assert targets.labels.tolist() == [label]
        assert torch.equal(targets.masks, clip.masks_Fnhw[f, f : f + 1])
    # In patches of 4 cells; what fills a quarter of them is too little.
    assert [front.nonzero().tolist() for front in fronts] == [[[2, 3], [3, 3]], [[5, 10], [5, 11]]]


def _logits(*shares: tuple[float, float, float]) -> Tensor:
    """(1, Q, 4): of three classes; the background has the rest."""
    return torch.tensor([[[*share, 1 - sum(share)] for share in shares]]).log()


def _masks(*corners: tuple[int, int]) -> Tensor:
    """(Q, 4, 4): rectangles from the top left."""
    masks = torch.zeros(len(corners), 4, 4)
    for mask, (height, width) in zip(masks, corners, strict=True):
        mask[:height, :width] = 1
    return masks


def _kept(*counts: int) -> tuple[Tensor, ...]:
    return tuple((torch.arange(8) < count)[None] for count in counts)


SURE = tuple(
    (0.01 + 0.9 * (k == 0), 0.01 + 0.9 * (k == 1), 0.01 + 0.9 * (k == 2)) for k in range(3)
)
NOTHING = (0.01, 0.01, 0.01)


def _step() -> Step:
    """Two frames of three static queries and two track slots, the second slot empty."""
    tracks = TrackQueries(torch.zeros(1, 2, 1), torch.tensor([[True, False]]), ((2, -1),))
    seen = FrameTargets(torch.arange(3), torch.arange(3), _masks((4, 4), (4, 1), (2, 2)))
    seen.masks[1, :, 1] = 0.4  # less than half a cell is none
    first = Found(
        # The second object's mask is a quarter of it; the third query and the empty slot are of
        # nothing.
        Prediction(
            _logits(SURE[0], SURE[1], SURE[1], SURE[2], SURE[0]),
            16 * _masks((4, 4), (1, 1), (4, 4), (2, 2), (4, 4))[None] - 8,
        ),
        (seen,),
        (torch.tensor([0, 1, 3]),),
        tracks,
        _kept(8, 4, 2, 1),
    )
    later = FrameTargets(torch.tensor([0, 2]), torch.tensor([0, 2]), _masks((4, 4), (2, 2)))
    second = Found(
        # The first object is not sure enough; the third, in its track, has another's name. The
        # second query is of nothing.
        Prediction(
            _logits((0.25, 0.01, 0.01), SURE[0], NOTHING, SURE[1], NOTHING),
            16 * _masks((4, 4), (0, 0), (0, 0), (2, 2), (0, 0))[None] - 8,
        ),
        (later,),
        (torch.tensor([0, 3]),),
        tracks,
        _kept(4, 4, 2, 2),
    )
    return Step({"classes": torch.tensor(1.5), "masks": torch.tensor(0.25)}, (first, second))


@pytest.mark.parametrize("training", [True, False])
def test_what_is_found_is_counted(
    model: VppModel, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    def crafted(run: VppModel, *arguments: Any) -> Step:
        assert not run.training
        assert arguments == (batch, PRUNING, None)
        return _step()

    batch = _batch()
    monkeypatch.setattr(measuring, "run_clips", crafted)
    model.train(training)
    assert measuring.measure(model, [batch], PRUNING) == pytest.approx(
        {
            "loss": 1.75,
            "iou": (1 + 0.25 + 1 + 1 + 1) / 5,
            "class": 4 / 5,
            "found": 2 / 5,
            "tracked": 1 / 2,
            "false": (1 + 1) / 2,
            "kept": ((1 + 2 + 3 * 7 / 8) + (1 + 1 + 3 * 8 / 8)) / 2 / 12,
        }
    )
    assert model.training is training


def test_a_model_that_is_not_pruned_keeps_all(
    model: VppModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Step({}, (dataclasses.replace(_step().frames[0], kept=()),))
    monkeypatch.setattr(measuring, "run_clips", lambda *_: whole)
    assert measuring.measure(model, [_batch()], None)["kept"] == 1

"""What must hold for any input: empty slots, independent streams, blocked rows, clean graphs."""

from collections import Counter

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.unit.models.formula_head import assert_same_predictions, formula_head, random_features
from vpp_deploy.models.deformable import sample_gather
from vpp_deploy.models.head import HeadOutput, VppHead


@pytest.fixture(scope="module")
def head() -> VppHead:
    return formula_head("tiny")


def _all_valid(batch: int, slots: int) -> Tensor:
    return torch.ones(batch, slots, dtype=torch.bool)


def _only(output: HeadOutput, streams: slice, queries: slice) -> list[Tensor]:
    classes, embeds, features, carried = (tensor[streams] for tensor in output[:4])
    return [classes[:, queries], embeds[:, queries], features, carried[:, queries]]


@pytest.mark.parametrize("garbage", [0.0, 1e4, float("inf"), float("nan")])
def test_an_empty_slot_changes_nothing(head: VppHead, garbage: float) -> None:
    features = random_features(1)
    tracks = torch.randn(1, 9, 256)
    alone = head(features, tracks, _all_valid(1, 9))
    padded = torch.cat((tracks, torch.full((1, 7, 256), garbage)), dim=1)
    valid = torch.cat((_all_valid(1, 9), ~_all_valid(1, 7)), dim=1)
    # Forced masks: a logit within rounding of the threshold must not decide this test.
    masks = [torch.cat((mask, mask[:, :7]), dim=1) for mask in alone.attention_masks]
    together = head(features, padded, valid, masks)
    assert together.queries_BQD.isfinite().all()
    assert_same_predictions(_only(together, slice(None), slice(109)), alone)


def test_a_real_track_changes_something(head: VppHead) -> None:
    features = random_features(1)
    none = head(features, torch.zeros(1, 0, 256), _all_valid(1, 0))
    one = head(features, torch.randn(1, 1, 256), _all_valid(1, 1))
    assert (one.queries_BQD[:, :100] - none.queries_BQD).abs().max() > 1e-3


def test_streams_of_a_batch_are_independent(head: VppHead) -> None:
    features = random_features(3)
    tracks = torch.randn(3, 4, 256)
    valid = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    together = head(features, tracks, valid)
    for b in range(3):
        own = slice(b, b + 1)
        alone = head(
            [level[own] for level in features],
            tracks[own],
            valid[own],
            [mask[own] for mask in together.attention_masks],
        )
        assert_same_predictions(alone, _only(together, own, slice(None)))


def test_a_row_that_is_blocked_everywhere_looks_everywhere(head: VppHead) -> None:
    features, tracks = random_features(1), torch.zeros(1, 0, 256)
    free = head(features, tracks, _all_valid(1, 0))
    blocked = [torch.ones_like(mask) for mask in free.attention_masks]
    unblocked = [torch.zeros_like(mask) for mask in free.attention_masks]
    assert_same_predictions(
        head(features, tracks, _all_valid(1, 0), blocked),
        head(features, tracks, _all_valid(1, 0), unblocked),
    )


class _Exported(nn.Module):
    def __init__(self, head: VppHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, tracks: Tensor, valid: Tensor
    ) -> tuple[Tensor, ...]:
        out = self.head((f1, f2, f3, f4), tracks, valid)
        return *out[:4], *out.attention_masks


@pytest.mark.parametrize(("batch", "slots"), [(1, 0), (2, 5)])
# torch 2.13 trips over its own deprecation while it decomposes the exported program.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_export_is_clean_and_equal(batch: int, slots: int) -> None:
    layers = 3
    head = formula_head("tiny", sample_gather, pixel_layers=1, decoder_layers=layers)
    features = random_features(batch)
    tracks, valid = torch.randn(batch, slots, 256), torch.rand(batch, slots) < 0.6
    inputs = (*features, tracks, valid)
    program = torch.onnx.export(
        _Exported(head).eval(), inputs, dynamo=True, opset_version=20, verbose=False
    )
    assert program is not None
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    ops = Counter(node.op_type for node in model.graph.node)
    for op in ("GridSample", "NonZero", "IsNaN", "ScatterElements", "ScatterND", "GatherElements"):
        assert op not in ops
    # Two in the encoder's layer; three in each decoder layer, and the prediction before it; the
    # last prediction.
    assert ops["LayerNormalization"] == 2 + 4 * layers + 1

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    results = [torch.from_numpy(result) for result in session.run(None, feed)]
    own = head(features, tracks, valid)
    flipped = sum(
        int((ours != theirs).sum())
        for ours, theirs in zip(own.attention_masks, results[4:], strict=True)
    )
    assert flipped <= 0.01 * sum(mask.numel() for mask in own.attention_masks)
    assert_same_predictions(results, head(features, tracks, valid, results[4:]))

"""What is computed otherwise than published, against the published order of operations."""

import pytest
import torch
from torch import nn

from tests.mini import INPUT_SIZE, mini_config
from vpp_deploy.models.adapter import pyramid_sizes
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.folding import FeatureProjection, fold_spatial_prior
from vpp_deploy.partition.head import Head

BATCH, TRACKS = 2, 3


@pytest.fixture(scope="module")
def model() -> VppModel:
    """Random weights, and BatchNorm statistics that change their input a lot."""
    torch.manual_seed(0)
    model = VppModel(mini_config()).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3.0)
    for parameter in model.panoptic_head.parameters():
        if parameter.ndim == 1 or not bool(parameter.any()):
            parameter.normal_()
        elif parameter.ndim == 2 and parameter.shape[0] == 3 * parameter.shape[1]:
            parameter.normal_(std=0.1)
    return model


def test_the_spatial_prior_without_its_norms(model: VppModel) -> None:
    prior = model.backbone.spm
    folded = fold_spatial_prior(prior)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in prior.modules())
    image, embedding = torch.randn(BATCH, 3, *INPUT_SIZE), torch.randn(3, mini_config().width)
    for got, expected in zip(folded(image, embedding), prior(image, embedding), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_projected_features(model: VppModel) -> None:
    backbone, decoder = model.backbone, model.panoptic_head.pixel_decoder
    grid = backbone.grid(INPUT_SIZE)
    config = mini_config()
    num_pyramid = sum(height * width for height, width in pyramid_sizes(grid))
    tokens = torch.randn(BATCH, grid[0] * grid[1], config.width)
    pyramid = torch.randn(BATCH, num_pyramid, config.width)
    stride4 = torch.randn(BATCH, config.stem_width, INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4)
    features = backbone.features(tokens, pyramid, stride4, grid)
    convolutions = [block.conv for block in decoder.projections]
    projection = FeatureProjection(backbone, model.panoptic_head, grid)
    for got, convolution, feature in zip(
        projection(tokens, pyramid, stride4), convolutions, features, strict=True
    ):
        torch.testing.assert_close(got, convolution(feature), rtol=1e-4, atol=1e-4)


def test_the_head_that_predicts_masks_at_their_own_size(model: VppModel) -> None:
    config, head = mini_config(), model.panoptic_head
    decoder = head.pixel_decoder
    features = [
        torch.randn(BATCH, config.width, INPUT_SIZE[0] // stride, INPUT_SIZE[1] // stride)
        for stride in (4, 8, 16, 32)
    ]
    convolutions = [block.conv for block in decoder.projections]
    projected = [conv(level) for conv, level in zip(convolutions, features, strict=True)]
    tracks = torch.randn(BATCH, TRACKS, config.head_width)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    expected = head(features, tracks, valid)
    logits, mask_logits, queries, *masks = Head(model).with_masks()(*projected, tracks, valid)
    read = torch.cat((torch.ones(BATCH, config.num_queries, dtype=torch.bool), valid), dim=1)
    for got, published in zip(masks, expected.attention_masks, strict=True):
        assert 0.05 < float(published[read].float().mean()) < 0.95
        assert torch.equal(got[read], published[read])
    published_logits = expected.mask_embeds_BQD @ expected.mask_features_BDHW.flatten(2)
    for got, want in (
        (logits, expected.class_logits_BQK),
        (queries, expected.queries_BQD),
        (mask_logits.flatten(2), published_logits),
    ):
        spread = float(want[read].std())
        torch.testing.assert_close(got[read], want[read], rtol=0, atol=1e-4 * spread)

"""Linear layers that meet in the published model, as one: the same function, fewer operations.

What differs from the published order of operations is rounding alone (products of weights are taken
in double precision); the verification of every export measures it.

Shapes: B streams, N patch tokens, M = 5.25 N pyramid tokens, C backbone width, S width of the
spatial prior's stem, D head width.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vpp_deploy.models.adapter import pyramid_sizes
from vpp_deploy.models.backbone import VppBackbone
from vpp_deploy.models.head import VppHead
from vpp_deploy.models.spatial_prior import SpatialPrior


def fold_spatial_prior(prior: SpatialPrior) -> SpatialPrior:
    """A copy whose BatchNorms are in the convolutions before them."""
    folded = copy.deepcopy(prior)
    for name in ("stem", "conv2", "conv3", "conv4"):
        layers: list[nn.Module] = []
        for layer in folded.get_submodule(name).children():
            if isinstance(layer, nn.BatchNorm2d):
                convolution = layers.pop()
                assert isinstance(convolution, nn.Conv2d)
                layer = fuse_conv_bn_eval(convolution, layer)
            layers.append(layer)
        setattr(folded, name, nn.Sequential(*layers))
    return folded


class FeatureProjection(nn.Module):
    """The backbone's tail (MODEL.md 2.1) and the head's first 1x1 convolutions (MODEL.md 3).

    f1 feeds nothing but one of them, so neither it nor c1 is ever computed at C channels, and what
    is to be enlarged is projected first. The BatchNorms of f1 to f4 are in the projections.
    """

    def __init__(self, backbone: VppBackbone, head: VppHead, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        decoder = head.pixel_decoder
        at_4, *others = (block.conv for block in decoder.projections)
        weight4, bias4 = _after_norm(backbone.norm1, at_4)
        fc1, up = backbone.spm.fc1, backbone.up
        assert fc1.bias is not None
        assert up.bias is not None
        bias4 = bias4 + weight4 @ (fc1.bias.double() + up.bias.double())
        self.prior4 = _parameter(weight4 @ fc1.weight.double().flatten(1))
        self.bias4 = _parameter(bias4[:, None])
        # (C, out, 2, 2): a transposed convolution's weight has its inputs first.
        self.up4 = _parameter(torch.einsum("dc,ecyx->edyx", weight4, up.weight.double()))
        self.tokens4 = _parameter(weight4)
        norms = (backbone.norm2, backbone.norm3, backbone.norm4)
        folded = [_after_norm(n, conv) for n, conv in zip(norms, others, strict=True)]
        self.weights = nn.ParameterList(_parameter(weight) for weight, _ in folded)
        self.biases = nn.ParameterList(_parameter(bias[:, None]) for _, bias in folded)

    def forward(
        self, x_BNC: Tensor, c_BMC: Tensor, stride4_BSHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """f1 to f4 behind their 1x1 convolutions: maps (B, D, height, width), strides 4 to 32."""
        sizes = pyramid_sizes(self.grid)
        parts = torch.split(c_BMC, [height * width for height, width in sizes], dim=1)
        tokens_BCN = x_BNC.transpose(1, 2)
        at_8, at_16, at_32 = (
            self._as_map(weight @ part_BSC.transpose(1, 2) + bias, size)
            + self._tokens(weight, tokens_BCN, size)
            for part_BSC, size, weight, bias in zip(
                parts, sizes, self.weights, self.biases, strict=True
            )
        )
        return self._at_4(tokens_BCN, parts[0], stride4_BSHW), at_8, at_16, at_32

    def _at_4(self, tokens_BCN: Tensor, at_8_BSC: Tensor, stride4_BSHW: Tensor) -> Tensor:
        height, width = stride4_BSHW.shape[2:]
        prior_BDS = self.prior4 @ stride4_BSHW.flatten(2) + self.bias4
        c2_BChw = self._as_map(at_8_BSC.transpose(1, 2), (height // 2, width // 2))
        enlarged = _enlarged(c2_BChw, self.up4)
        tokens = self._tokens(self.tokens4, tokens_BCN, (height, width))
        return self._as_map(prior_BDS, (height, width)) + enlarged + tokens

    def _tokens(self, weight: Tensor, tokens_BCN: Tensor, size: tuple[int, int]) -> Tensor:
        """The final tokens, projected, as a map of another size."""
        maps = self._as_map(weight @ tokens_BCN, self.grid)
        if size == self.grid:
            return maps
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    @staticmethod
    def _as_map(planes_BDS: Tensor, size: tuple[int, int]) -> Tensor:
        return planes_BDS.reshape(*planes_BDS.shape[:2], *size)


def _enlarged(x_BChw: Tensor, weight_CD22: Tensor) -> Tensor:
    """A transposed convolution of kernel and stride 2: (B, D, 2h, 2w)."""
    if weight_CD22.dtype != torch.bfloat16:
        return F.conv_transpose2d(x_BChw, weight_CD22, stride=2)
    # TensorRT for RTX 1.7 has no kernel for it in bfloat16 ("Could not find any implementation");
    # to be removed with support for that version.
    _, width, *_ = weight_CD22.shape
    batch, _, height, breadth = x_BChw.shape
    planes_BES = weight_CD22.flatten(1).T @ x_BChw.flatten(2)
    parts = planes_BES.reshape(batch, width, 2, 2, height, breadth)
    return parts.permute(0, 1, 4, 2, 5, 3).reshape(batch, width, 2 * height, 2 * breadth)


class MaskEmbedding(nn.Module):
    """The mask MLP with the 1x1 convolution that makes mask features folded into its last layer.

    Mask logits are its embedding times the map before that convolution, plus its bias.
    """

    def __init__(self, head: VppHead) -> None:
        super().__init__()
        *hidden, last = head.mask_embed
        assert isinstance(last, nn.Linear)
        self.hidden = nn.Sequential(*hidden)
        convolution = head.pixel_decoder.mask_feature
        assert convolution.bias is not None
        bias = convolution.bias.double()[:, None]
        onto = torch.cat((convolution.weight.double().flatten(1), bias), dim=1).T
        self.weight = _parameter(onto @ last.weight.double())
        self.bias = _parameter(onto @ last.bias.double())

    def forward(self, normed_BQD: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, Q, D) and biases (B, Q, 1) of the queries behind `post_norm`."""
        both = F.linear(self.hidden(normed_BQD), self.weight, self.bias)
        return both[..., :-1], both[..., -1:]


def _after_norm(norm: nn.BatchNorm2d, convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """(D, C) weight and (D,) bias of a 1x1 convolution behind a BatchNorm, in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = convolution.weight.double().flatten(1)
    bias = weight @ shift
    if convolution.bias is not None:
        bias = bias + convolution.bias.double()
    return weight * scale, bias


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float(), requires_grad=False)

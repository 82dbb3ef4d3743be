"""The convolutional stem beside the ViT: four maps at strides 4 to 32 (MODEL.md 2.1)."""

import torch
from torch import Tensor, nn


def _conv_bn_relu(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class SpatialPrior(nn.Module):
    """A map at 1/4 and tokens of c2, c3, c4 (1/8, 1/16, 1/32), these C wide.

    c1 is `fc1` of the map; only the first feature map needs it (`VppBackbone.features`).
    """

    def __init__(self, stem_width: int, width: int) -> None:
        super().__init__()
        s = stem_width
        self.stem = nn.Sequential(
            *_conv_bn_relu(3, s, 2),
            *_conv_bn_relu(s, s, 1),
            *_conv_bn_relu(s, s, 1),
            nn.MaxPool2d(3, 2, 1),
        )
        self.conv2 = nn.Sequential(*_conv_bn_relu(s, 2 * s, 2))
        self.conv3 = nn.Sequential(*_conv_bn_relu(2 * s, 4 * s, 2))
        self.conv4 = nn.Sequential(*_conv_bn_relu(4 * s, 4 * s, 2))
        self.fc1 = nn.Conv2d(s, width, 1)
        self.fc2 = nn.Conv2d(2 * s, width, 1)
        self.fc3 = nn.Conv2d(4 * s, width, 1)
        self.fc4 = nn.Conv2d(4 * s, width, 1)

    def forward(self, image_B3HW: Tensor, level_embed_3C: Tensor) -> tuple[Tensor, Tensor]:
        """The map (B, stem_width, H/4, W/4) and the tokens (B, 5.25 N, C), fine to coarse."""
        m1 = self.stem(image_B3HW)
        m2 = self.conv2(m1)
        m3 = self.conv3(m2)
        m4 = self.conv4(m3)
        levels = (self.fc2(m2), self.fc3(m3), self.fc4(m4))
        tokens = [
            level.flatten(2).transpose(1, 2) + level_embed_3C[i] for i, level in enumerate(levels)
        ]
        return m1, torch.cat(tokens, dim=1)

"""ResNet-50v2 for 32x32 images, as published with adversarial self-supervised pre-training (Chen et al., CVPR 2020).

A prefix turns a published state dict into one of this package: `conv1`, `bn1`, `layer1`, `layer2` and `layer3` become
`encoder.<name>`. `layer4` and `linear` become `top.<name>` (`top` is the objective's attribute). The names below these are
the same. The only additional entries are `encoder.normalise.mean` and `encoder.normalise.std`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from .backbone import Backbone, Encoder, Normalise, classifier, conv, sequence, stage

EXPANSION = 4


class Bottleneck(nn.Module):
    """Pre-activation bottleneck: convolutions 1x1, 3x3 (stride), 1x1.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride)). Where size or channels change, a 1x1
    convolution + batch norm of the pre-activated input is added; elsewhere the raw input is.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // EXPANSION
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        pre = relu(self.bn0(x))
        out = relu(self.bn1(self.conv1(pre)))
        out = relu(self.bn2(self.conv2(out)))
        residual: Tensor = self.conv3(out)
        return residual + (x if self.shortcut is None else self.shortcut(pre))


def bottleneck_resnet50(normalise: Normalise, channels: int) -> Backbone:
    """23.5 million weights with 10 outputs, 2.6 GFLOPs (1.3 billion multiply-adds) on a 32x32 colour image.

    Encoder: 3x3 stem with batch norm and ReLU, then stages of 3, 4 and 6 blocks; 1024 channels at a quarter of the size.
    A top: 3 more blocks to 2048 channels, no norm after them, average pool, linear layer.
    """
    encoder = Encoder(
        1024,
        normalise=normalise,
        conv1=conv(channels, 64, 3),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        layer1=stage(Bottleneck, 64, 256, blocks=3, stride=1),
        layer2=stage(Bottleneck, 256, 512, blocks=4, stride=2),
        layer3=stage(Bottleneck, 512, 1024, blocks=6, stride=2),
    )

    def top(outputs: int) -> nn.Module:
        return sequence(layer4=stage(Bottleneck, 1024, 2048, blocks=3, stride=2), **classifier(2048, outputs))

    return Backbone(encoder, top)

"""ResNets of basic blocks for small images (He et al. 2016, "Deep residual learning"): a 3x3 stem without pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from .backbone import Backbone, Encoder, Normalise, classifier, conv, sequence, stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each before a batch norm; ReLU between them and after the sum.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride)). Where size or channels change, a 1x1
    convolution with a batch norm is the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(out + (x if self.shortcut is None else self.shortcut(x)))


def resnet(normalise: Normalise, channels: int, blocks: Sequence[int]) -> Backbone:
    """Four stages of `blocks` basic blocks, 64, 128, 256 and 512 channels, strides 1, 2, 2, 2. Blocks (2, 2, 2, 2) are ResNet-18.

    Encoder: 3x3 stem with batch norm and ReLU + three stages; 256 channels at a quarter of the size. A top: the fourth stage,
    average pool, linear layer.
    """
    encoder = Encoder(
        256,
        normalise=normalise,
        conv1=conv(channels, 64, 3),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        layer1=stage(BasicBlock, 64, 64, blocks[0], stride=1),
        layer2=stage(BasicBlock, 64, 128, blocks[1], stride=2),
        layer3=stage(BasicBlock, 128, 256, blocks[2], stride=2),
    )

    def top(outputs: int) -> nn.Module:
        return sequence(layer4=stage(BasicBlock, 256, 512, blocks[3], stride=2), **classifier(512, outputs))

    return Backbone(encoder, top)

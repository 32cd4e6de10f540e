"""Pre-activation ResNets of basic blocks (He et al. 2016, "Identity mappings in deep residual networks")."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from .backbone import Backbone, Encoder, Normalise, classifier, conv, sequence, stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm + ReLU.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride)). Where size or channels change, a 1x1
    convolution of the pre-activated input is added, or, with `raw_shortcut`, one of the raw input. Elsewhere the raw input is.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, raw_shortcut: bool = False) -> None:
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        pre = relu(self.bn1(x))
        out: Tensor = self.conv2(relu(self.bn2(self.conv1(pre))))
        return out + (x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else pre))


def preact_resnet(
    normalise: Normalise, channels: int, blocks: Sequence[int], width: int = 64, raw_shortcut: bool = False
) -> Backbone:
    """Four stages of `blocks` basic blocks, `width`, 2, 4 and 8 times `width` channels, strides 1, 2, 2, 2.

    Encoder: 3x3 stem + three stages; 4 * width channels at a quarter of the size. A top: the fourth stage, batch norm +
    ReLU, average pool, linear layer. Blocks (2, 2, 2, 2) are ResNet-18, (3, 4, 6, 3) ResNet-34, and (1, 1, 1, 1) at
    width 16 the small net: 0.31 million weights, 26 MFLOPs (13 million multiply-adds) on a 28x28 grey image. With
    `raw_shortcut` it is the network of fast adversarial training (Wong et al., ICLR 2020), which has the same weights by name.
    """
    block = functools.partial(BasicBlock, raw_shortcut=raw_shortcut)
    encoder = Encoder(
        4 * width,
        normalise=normalise,
        conv1=conv(channels, width, 3),
        layer1=stage(block, width, width, blocks[0], stride=1),
        layer2=stage(block, width, 2 * width, blocks[1], stride=2),
        layer3=stage(block, 2 * width, 4 * width, blocks[2], stride=2),
    )

    def top(outputs: int) -> nn.Module:
        return sequence(
            layer4=stage(block, 4 * width, 8 * width, blocks[3], stride=2),
            bn=nn.BatchNorm2d(8 * width),
            relu=nn.ReLU(),
            **classifier(8 * width, outputs),
        )

    return Backbone(encoder, top)

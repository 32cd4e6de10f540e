"""Wide residual networks (Zagoruyko and Komodakis 2016): WRN-depth-widen."""

from __future__ import annotations

from torch import nn

from .backbone import Backbone, Encoder, Normalise, classifier, conv, sequence, stage
from .preact import BasicBlock


def wide_resnet(normalise: Normalise, channels: int, depth: int, widen: int) -> Backbone:
    """Three stages of (depth - 4) / 6 basic blocks, 16, 32 and 64 times `widen` channels, strides 1, 2, 2; no dropout.

    theta_p is the part below the last stage, as in the four-stage nets: here the stem and the first two stages, 32 *
    widen channels at half of the size. A top: the third stage, batch norm + ReLU, average pool, linear layer.
    """
    blocks, width = (depth - 4) // 6, 16 * widen
    encoder = Encoder(
        2 * width,
        normalise=normalise,
        conv1=conv(channels, 16, 3),
        layer1=stage(BasicBlock, 16, width, blocks, stride=1),
        layer2=stage(BasicBlock, width, 2 * width, blocks, stride=2),
    )

    def top(outputs: int) -> nn.Module:
        return sequence(
            layer3=stage(BasicBlock, 2 * width, 4 * width, blocks, stride=2),
            bn=nn.BatchNorm2d(4 * width),
            relu=nn.ReLU(),
            **classifier(4 * width, outputs),
        )

    return Backbone(encoder, top)

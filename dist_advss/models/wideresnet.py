"""Wide residual networks (Zagoruyko and Komodakis 2016): WRN-depth-widen."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .backbone import Backbone, Encoder, Normalise, classifier, conv, sequence, stage
from .preact import BasicBlock


def wide_resnet(
    normalise: Normalise,
    channels: int,
    depth: int,
    widen: int,
    block: Callable[[int, int, int], nn.Module] = BasicBlock,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> Backbone:
    """Three stages of (depth - 4) / 6 blocks, 16, 32 and 64 times `widen` channels, strides 1, 2, 2; no dropout.

    theta_p is the part below the last stage, as in the four-stage nets: here the stem and the first two stages, 32 *
    widen channels at half of the size. A top: the third stage, batch norm + `activation`, average pool, linear layer.
    """
    blocks, width = (depth - 4) // 6, 16 * widen
    encoder = Encoder(
        2 * width,
        normalise=normalise,
        conv1=conv(channels, 16, 3),
        layer1=stage(block, 16, width, blocks, stride=1),
        layer2=stage(block, width, 2 * width, blocks, stride=2),
    )

    def top(outputs: int) -> nn.Module:
        return sequence(
            layer3=stage(block, 2 * width, 4 * width, blocks, stride=2),
            bn=nn.BatchNorm2d(4 * width),
            activation=activation(),
            **classifier(4 * width, outputs),
        )

    return Backbone(encoder, top)

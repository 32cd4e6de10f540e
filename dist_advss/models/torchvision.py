"""torchvision's ResNet-18 and ResNet-50 for images of about 224 pixels, with random weights, split before the fourth stage.

The names are torchvision's, except for the linear layer: `fc` becomes `linear`, as in every top.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from .backbone import Backbone, Encoder, Normalise, sequence


def torchvision_resnet(normalise: Normalise, channels: int, name: Literal["resnet18", "resnet50"]) -> Backbone:
    """Encoder: 7x7 stem, max pool, three stages; 256 (ResNet-18) or 1024 (ResNet-50) channels at 1/16 of the size.

    A top: the fourth stage, average pool, linear layer. Initialised as torchvision does.
    """
    # Imported here, because it takes as long as torch and only these two models need it.
    from torchvision import models

    make = getattr(models, name)
    net = make(weights=None)
    if channels != net.conv1.in_channels:
        net.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    encoder = Encoder(
        net.fc.in_features // 2,
        normalise=normalise,
        conv1=net.conv1,
        bn1=net.bn1,
        relu=net.relu,
        maxpool=net.maxpool,
        layer1=net.layer1,
        layer2=net.layer2,
        layer3=net.layer3,
    )

    def top(outputs: int) -> nn.Module:
        fresh = make(weights=None, num_classes=outputs)
        return sequence(layer4=fresh.layer4, pool=fresh.avgpool, flatten=nn.Flatten(), linear=fresh.fc)

    return Backbone(encoder, top)

"""Wide ResNets with Swish, as Gowal et al. 2020 ("Uncovering the limits of adversarial training", section 4.5) train them.

Two things differ from `wideresnet`: the activation is x sigmoid(x), and a 3x3 convolution of stride 2 pads an even size by one pixel
at the right and at the bottom only. Names and shapes of the weights are the same.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad, silu

from .backbone import Backbone, Normalise, conv
from .wideresnet import wide_resnet


class SwishBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm + Swish.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride)). Where the channels change, a 1x1 convolution of
    the pre-activated input is added; elsewhere the raw input is. Only there may the stride be 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        pre = silu(self.bn1(x))
        # 3x3 at stride 2: an even size needs one pixel more in all, an odd one two.
        left, top = (1, 1) if self.stride == 1 else (pre.shape[3] % 2, pre.shape[2] % 2)
        out: Tensor = self.conv2(silu(self.bn2(self.conv1(pad(pre, (left, 1, top, 1))))))
        return out + (x if self.shortcut is None else self.shortcut(pre))


def swish_wide_resnet(normalise: Normalise, channels: int, depth: int, widen: int) -> Backbone:
    """The stages, channels and strides of `wide_resnet`, of these blocks, with Swish before the pooling."""
    return wide_resnet(normalise, channels, depth, widen, SwishBlock, nn.SiLU)

"""1x1 convolutions with a stride, kept away from a fault of torch on processors without AVX-512.

On such a processor torch 2.14.1 (oneDNN 3.12.0) corrupts the heap in the backward pass of a 1x1 convolution with stride 2
and 2 to 7 input channels in channels_last memory. The process then crashes, there or later. Other kernels and strides, 8
input channels and more, and contiguous memory are sound. Such a convolution reads every second pixel only, so it is
computed here as it is defined: the pixels are selected first, and the convolution has stride 1. The numbers are the same
within rounding, and so are names and shapes of its weights.
"""

from __future__ import annotations

from torch import Tensor, nn

FIRST_SOUND_WIDTH = 8  # input channels of one group from which torch's own kernel is sound


class SelectingConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride: (N, in_channels, H, W) to (N, out_channels, ceil(H/stride), ceil(W/stride))."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        pixels = x[:, :, ::down, ::across]
        return nn.functional.conv2d(pixels, self.weight, self.bias, groups=self.groups)


def is_unsound(layer: nn.Module) -> bool:
    """Whether torch's own backward pass of this layer may corrupt the heap on a processor without AVX-512."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and layer.padding in ((0, 0), "valid")
        and max(layer.stride) > 1
        and 1 < layer.in_channels // layer.groups < FIRST_SOUND_WIDTH
    )


def sound(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer itself, or a `SelectingConv2d` with its parameters where torch's own kernel is unsound."""
    if not is_unsound(layer):
        return layer
    selecting = SelectingConv2d(
        layer.in_channels,
        layer.out_channels,
        kernel_size=1,
        stride=layer.stride,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
        device="meta",  # no draw of weights: the parameters are the layer's
    )
    selecting.weight = layer.weight
    selecting.bias = layer.bias
    return selecting.train(layer.training)


def replace_unsound(module: nn.Module) -> None:
    """Replaces every unsound layer below `module` in place, for modules that were not built by this package."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, sound(child))
        else:
            replace_unsound(child)

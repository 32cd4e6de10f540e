"""Strided 1x1 convolutions that are safe on processors without AVX-512, where a bug of torch can crash the process.

On such a processor torch 2.14.1 (oneDNN 3.12.0) corrupts the heap in the backward pass of a 1x1 convolution with stride 2
and 2 to 7 input channels in channels_last memory. The process crashes at once or later. Other kernels and strides, 8 input
channels and more, and contiguous memory are sound.

With stride 2 such a convolution reads every second pixel only. So this module selects these pixels first and then convolves
them with stride 1. Results are the same within rounding. Names and shapes of the weights are the same.
"""

from __future__ import annotations

from torch import Tensor, nn

FIRST_SOUND_WIDTH = 8  # input channels of one group; torch's kernel is sound from here on


class SelectingConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride: (N, in_channels, H, W) to (N, out_channels, ceil(H/stride), ceil(W/stride))."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        pixels = x[:, :, ::down, ::across]
        return nn.functional.conv2d(pixels, self.weight, self.bias, groups=self.groups)


def is_unsound(layer: nn.Module) -> bool:
    """Whether torch's backward pass of this layer may corrupt the heap on a processor without AVX-512.

    A subclass of nn.Conv2d counts when it calls the same kernel on the same two parameters: it overrides no forward, and
    its weight is not computed from others (torch.nn.utils.parametrize).
    """
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and type(layer)._conv_forward is nn.Conv2d._conv_forward
        and layer._parameters.keys() == {"weight", "bias"}
        and layer.kernel_size == (1, 1)
        and layer.padding in ((0, 0), "valid")
        and max(layer.stride) > 1
        and 1 < layer.in_channels // layer.groups < FIRST_SOUND_WIDTH
    )


def sound(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer itself, or a `SelectingConv2d` with the same parameters where torch's kernel is unsound."""
    if not is_unsound(layer):
        return layer
    selecting = SelectingConv2d(
        layer.in_channels,
        layer.out_channels,
        kernel_size=1,
        stride=layer.stride,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
        device="meta",  # draws no random weights; the next lines assign the layer's
    )
    selecting.weight = layer.weight
    selecting.bias = layer.bias
    return selecting.train(layer.training)


def replace_unsound(module: nn.Module) -> None:
    """Replaces every unsound layer of `module` in place. Use it for modules from outside this package."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, sound(child))
        else:
            replace_unsound(child)

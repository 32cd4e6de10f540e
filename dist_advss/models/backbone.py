"""The parts of a backbone: an encoder (theta_p), which pre-training learns and transfers, and the tops on it.

An encoder is normalisation + stem + all stages but the last; a top is the last stage + pooling + linear layer. Both
are plain sequences of named parts, so a state dict reads `encoder.layer1.0.conv1.weight`, `top.linear.bias`.

Every part accepts channels_last and returns it, and its gradients can be differentiated again. Blocks of this package do
nothing in place, so distributed engines may put hooks on any module. Blocks of torchvision work in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UserError
from .convolution import sound

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LINEAR = "linear"  # the part of a top that gives the outputs


class Normalise(nn.Module):
    """(x - mean) / std per channel, inside the model, so that attacks and images stay in [0,1].

    mean, std: buffers (C, 1, 1) float32. An fp32 image stays fp32 under autocast.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normalisation(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalise:
    """The module for `channels` colour channels.

    None means ImageNet's values with 3 channels, and their average with any other number. Raises UserError when
    the number of values is not the number of channels or a std is not above 0.
    """
    mean = _imagenet(IMAGENET_MEAN, channels) if mean is None else mean
    std = _imagenet(IMAGENET_STD, channels) if std is None else std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(f"model.{name}={list(values)}: one value per channel, and data.channels={channels}")
    if min(std) <= 0:
        raise UserError(f"model.std={list(std)}: every value must be above 0")
    return Normalise(mean, std)


def _imagenet(values: tuple[float, float, float], channels: int) -> tuple[float, ...]:
    return values if channels == 3 else (sum(values) / 3,) * channels


class Encoder(nn.Sequential):
    """theta_p: (N, C, H, W) float in [0,1] -> (N, out_channels, h, w).

    `out_channels` is the number of feature maps; h and w follow from the strides of the parts and are at least 1.
    """

    def __init__(self, out_channels: int, **parts: nn.Module) -> None:
        super().__init__()
        self.out_channels = out_channels
        for name, part in parts.items():
            self.add_module(name, part)


@dataclass(frozen=True)
class Backbone:
    """An encoder and `top(outputs)`, which makes a new last stage + pooling + linear layer at each call.

    A top takes the encoder's (N, out_channels, h, w) to logits (N, outputs).
    """

    encoder: Encoder
    top: Callable[[int], nn.Module]


def last_stage(top: nn.Module) -> tuple[str, ...]:
    """The names of the parts of a top before its linear layer: the last stage, its norm and the pooling."""
    return tuple(name for name, _ in top.named_children() if name != LINEAR)


def count_parameters(module: nn.Module) -> int:
    """The number of weights, frozen ones included, buffers left out."""
    return sum(parameter.numel() for parameter in module.parameters())


def sequence(**parts: nn.Module) -> nn.Sequential:
    """An nn.Sequential with these names."""
    modules = nn.Sequential()
    for name, part in parts.items():
        modules.add_module(name, part)
    return modules


def classifier(channels: int, outputs: int) -> dict[str, nn.Module]:
    """The end of a top: average over any height and width, then a linear layer: (N, channels, h, w) -> (N, outputs)."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), LINEAR: nn.Linear(channels, outputs)}


def stage(
    block: Callable[[int, int, int], nn.Module], in_channels: int, out_channels: int, blocks: int, stride: int
) -> nn.Sequential:
    """`blocks` residual blocks `block(in_channels, out_channels, stride)`; the first one changes channels and size."""
    rest = (block(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, out_channels, stride), *rest)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps height and width at stride 1 (odd kernels), sound on every processor."""
    return sound(nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False))

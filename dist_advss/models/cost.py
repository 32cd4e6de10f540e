"""How large a network is."""

from __future__ import annotations

from torch import nn


def count_parameters(module: nn.Module) -> int:
    """The number of weights, frozen ones included, buffers left out."""
    return sum(parameter.numel() for parameter in module.parameters())

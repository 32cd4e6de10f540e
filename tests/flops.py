"""FLOPs of a network by torch's own counter, against which the product's counts are held."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def flops_per_image(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """FLOPs of one forward pass for one image of `shape` (C, H, W).

    Convolutions and matrix products are counted, a multiply-add as 2. Only shapes are computed, so nothing in `module`
    changes, its batch-norm statistics neither.
    """
    state = {name: tensor.detach().to("meta") for name, tensor in module.state_dict().items()}
    pair = torch.empty(2, *shape, device="meta")  # two, as batch norm in train mode refuses one value per channel
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(module, state, (pair,))
    total: int = counter.get_total_flops()
    return total // len(pair)

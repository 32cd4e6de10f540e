"""Builds the optimizer of a schedule over the trained parameters."""

from __future__ import annotations

import torch
from torch import nn

from ..config.training import Schedule


def build_optimizer(config: Schedule, module: nn.Module) -> torch.optim.Optimizer:
    """SGD, AdamW (torch) or LARS (timm; You et al. 2017); weight decay on every trained parameter, as published."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    if config.optimizer == "lars":
        from timm.optim.lars import Lars

        return Lars(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )

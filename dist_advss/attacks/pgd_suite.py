"""The PGD members of a cascade: one loop of projected steps on five losses, from several starts, with and without momentum.

An image has fallen at the first iterate that fools the model, the start included. PGD in `pgd` attacks any objective, also for
training; the members here need logits, and judge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.attack import Attack as AttackConfig
from ..row_maths import column, lead
from .apgd import Loss, Query, cross_entropy, dlr, margin
from .pgd import step_size
from .threat import THREATS, Threat

DECAY = 1.0  # mu of MI-FGSM, as published
SMALLEST = torch.finfo(torch.float32).tiny  # keeps a zero gradient from being divided by zero


def run(
    name: str, config: AttackConfig, query: Query, x: Tensor, labels: Tensor, targets: Tensor, begin: Tensor
) -> Tensor:
    """Images (N, C, H, W) in the ball around x that the member `name` finds from `begin`.

    pgd-ce, pgd-cw, pgd-dlr, pgd-t: in steps of eps/4. pgd-t ascends towards `targets` (N,). mi-fgsm: cross-entropy with
    momentum, in steps of eps/steps. `config.step_size` replaces either length.
    """
    threat = THREATS[config.norm](config.eps)
    if name == "mi-fgsm":
        size = config.eps / config.steps if config.step_size is None else config.step_size
        return ascend(query, cross_entropy(labels), x, labels, begin, threat, size, config.steps, DECAY)
    loss = {
        "pgd-ce": cross_entropy(labels),
        "pgd-cw": cw(labels),
        "pgd-dlr": dlr(labels),
        "pgd-t": cw_targeted(labels, targets),
    }[name]
    return ascend(query, loss, x, labels, begin, threat, step_size(config), config.steps)


def cw(labels: Tensor) -> Loss:
    """max_{i≠y} z_i - z_y: f_6 of Carlini and Wagner (2017), without its bound. Above 0 the model is wrong."""
    return lambda logits: -lead(logits, labels)


def cw_targeted(labels: Tensor, targets: Tensor) -> Loss:
    """z_t - z_y (Gowal et al. 2019, MultiTargeted); `targets` (N,) int64."""
    return lambda logits: margin(logits, labels, targets)


def ascend(
    query: Query,
    loss: Loss,
    x: Tensor,
    labels: Tensor,
    begin: Tensor,
    threat: Threat,
    step_size: float,
    steps: int,
    decay: float = 0.0,
) -> Tensor:
    """For each row of x (N, C, H, W) in [0,1] the first iterate that `query` gets wrong, else the last one.

    `begin` is the first iterate. With `decay` mu > 0 the step follows g ← mu g + ∇L/‖∇L‖₁ (Dong et al., CVPR 2018, alg. 1).
    Ends early when all rows have fallen.
    """
    current, found = begin, begin
    fallen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    direction = torch.zeros_like(x)
    for step in range(steps + 1):
        # The last iterate is judged and not moved: it needs no gradient.
        leaf = current.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            logits = query(leaf)
        wrong = logits.detach().argmax(1) != labels
        found = torch.where(column(fallen, x), found, leaf.detach())
        fallen = fallen | wrong
        if step == steps or bool(fallen.all()):
            break
        (gradient,) = torch.autograd.grad(loss(logits).sum(), leaf)
        if decay:
            gradient = decay * direction + gradient / column(gradient.abs().flatten(1).sum(1), x).clamp_min(SMALLEST)
            direction = gradient
        current = threat.project(threat.step(current, gradient, step_size), x)
    return found

"""APGD (Croce and Hein, ICML 2020, section 3): l-inf gradient ascent with momentum whose step sizes adapt by themselves.

The step starts at 2 eps. At checkpoints it is halved, for each image by itself, where the loss has risen in too few steps or
has reached no new maximum. The search then resumes from the best point.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..rng import Rng
from ..row_maths import column

MOMENTUM = 0.75  # the share of the new step; the rest is the step before
ENOUGH = 0.75  # the share of steps that must raise the loss, or the step size is halved

Query = Callable[[Tensor], Tensor]  # images (N, C, H, W) to logits (N, classes), float32
Loss = Callable[[Tensor], Tensor]  # logits (N, classes) to what is ascended, (N,)


def cross_entropy(labels: Tensor) -> Loss:
    """The loss of APGD-CE."""
    return lambda logits: nn.functional.cross_entropy(logits, labels, reduction="none")


def dlr_targeted(labels: Tensor, targets: Tensor) -> Loss:
    """The loss of APGD-T (eq. 7): (z_target - z_label) / (z_1 - (z_3 + z_4)/2), z_i the i-th largest of at least 4 logits."""

    def loss(logits: Tensor) -> Tensor:
        largest = logits.sort(dim=1, descending=True).values
        spread = largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3])
        return margin(logits, labels, targets) / (spread + 1e-12)

    return loss


def margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """z_target - z_label, (N,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def start(x: Tensor, eps: float, rng: Rng, name: str) -> Tensor:
    """A uniform direction, scaled so that its largest entry is eps, in [0,1]."""
    direction = rng.uniform(name, x.shape[1:], -1.0, 1.0)
    largest = column(direction.abs().flatten(1).amax(1), x)
    return (x + eps * direction / (largest + 1e-12)).clamp(0, 1)


def apgd(query: Query, loss: Loss, x: Tensor, labels: Tensor, begin: Tensor, eps: float, steps: int) -> Tensor:
    """Images within eps of x (N, C, H, W) in [0,1]: for each row the first iterate that `query` gets wrong, else its best one.

    `begin` is the first iterate, such as that of `start`. Ends early when all rows have fallen.
    """
    current = previous = begin
    gradient, losses, wrong = _look(query, loss, current, labels)
    best, best_gradient, best_loss = current, gradient, losses
    found, fallen = current, wrong
    size = torch.full_like(column(losses, x), 2 * eps)

    # What a checkpoint compares with the one before it.
    window, since = max(int(0.22 * steps), 1), 0
    rises = torch.zeros_like(losses)
    last_loss = torch.zeros_like(losses)  # the first step is compared with 0, as published
    best_at_check, was_halved = best_loss, torch.ones_like(wrong)

    for step in range(steps):
        if bool(fallen.all()):
            break
        # 1. A step, and a share of the step before.
        moved = _project(current + size * gradient.sign(), x, eps)
        share = MOMENTUM if step > 0 else 1.0
        moved = _project(current + (moved - current) * share + (current - previous) * (1 - share), x, eps)
        previous, current = current, moved
        gradient, losses, wrong = _look(query, loss, current, labels)

        # 2. The first iterate that fools the model, and the best one so far.
        found = torch.where(column(wrong & ~fallen, x), current, found)
        fallen = fallen | wrong
        better = losses > best_loss
        best = torch.where(column(better, x), current, best)
        best_gradient = torch.where(column(better, x), gradient, best_gradient)
        best_loss = torch.where(better, losses, best_loss)
        rises, last_loss, since = rises + (losses > last_loss), losses, since + 1

        # 3. A checkpoint: smaller steps from the best point, where that helps.
        if since == window:
            stuck = ~was_halved & (best_at_check >= best_loss)
            halve = (rises <= ENOUGH * window) | stuck
            size = torch.where(column(halve, x), size / 2, size)
            current = torch.where(column(halve, x), best, current)
            gradient = torch.where(column(halve, x), best_gradient, gradient)
            was_halved, best_at_check = halve, best_loss
            rises, since = torch.zeros_like(rises), 0
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return torch.where(column(fallen, x), found, best)


def _look(query: Query, loss: Loss, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, loss (N,) and whether the model is wrong (N,) at x."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = query(leaf)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return gradient, losses.detach(), logits.detach().argmax(1) != labels


def _project(z: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)

"""APGD (Croce and Hein, ICML 2020, section 3): gradient ascent with momentum whose step sizes adapt by themselves.

In l-inf and l2 the step starts at 2 eps. At checkpoints it is halved, for each image by itself, where the loss has risen in
too few steps or has reached no new maximum. The search then resumes from the best point. The l1 ball has rules of its own
(`sparse`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..row_maths import column
from .balls import L1, Ball
from .threat import Threat

MOMENTUM = 0.75  # the share of the new step; the rest is the step before
ENOUGH = 0.75  # the share of steps that must raise the loss, or the step size is halved
SPARSER = 1.5  # in l1: an iterate changes so many times the entries of a step
SHRINK = 1.5  # in l1: the divisor of the step size

Query = Callable[[Tensor], Tensor]  # images (N, C, H, W) to logits (N, classes), float32
Loss = Callable[[Tensor], Tensor]  # logits (N, classes) to what is ascended, (N,)


def cross_entropy(labels: Tensor) -> Loss:
    """The loss of APGD-CE."""
    return lambda logits: nn.functional.cross_entropy(logits, labels, reduction="none")


def dlr(labels: Tensor) -> Loss:
    """The loss of APGD-DLR (eq. 6): (the largest other logit - z_label) / (z_1 - z_3), z_i the i-th largest of at least 3 logits."""

    def loss(logits: Tensor) -> Tensor:
        largest, classes = logits.topk(3, dim=1)
        other = torch.where(classes[:, 0] == labels, largest[:, 1], largest[:, 0])
        right = logits.gather(1, labels[:, None])[:, 0]
        return (other - right) / (largest[:, 0] - largest[:, 2] + 1e-12)

    return loss


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


def stride(
    threat: Threat | Ball, x: Tensor, current: Tensor, previous: Tensor, gradient: Tensor, size: Tensor, first: bool
) -> Tensor:
    """The iterate after `current`: a step of `size` (N, 1, …) and, but for the first one, a share of the step before."""
    moved = threat.project(threat.step(current, gradient, size), x)
    share = 1.0 if first else MOMENTUM
    return threat.project(current + (moved - current) * share + (current - previous) * (1 - share), x)


class Checkpoints:
    """The step size of each row, `size` (N,), which a checkpoint halves where the search is stuck (section 3.3).

    It begins at `size`. `losses` (N,) are those of the start. Reads no value, so that nothing waits for a GPU.
    """

    def __init__(self, losses: Tensor, size: float, steps: int) -> None:
        self.size = torch.full_like(losses, size)
        self._steps = steps
        # What a checkpoint compares with the one before it.
        self._window, self._since = max(int(0.22 * steps), 1), 0
        self._rises = torch.zeros_like(losses)
        self._last_loss = torch.zeros_like(losses)  # the first step is compared with 0, as published
        self._best_at_check, self._was_halved = losses, torch.ones_like(losses, dtype=torch.bool)

    def back(self, losses: Tensor, best_loss: Tensor) -> Tensor | None:
        """To be called after each step, with its losses (N,) and the best ones so far.

        At a checkpoint, the rows (N,) whose step size was halved and which resume from their best point; else None.
        """
        self._rises, self._last_loss = self._rises + (losses > self._last_loss), losses
        self._since += 1
        if self._since < self._window:
            return None
        stuck = ~self._was_halved & (self._best_at_check >= best_loss)
        halve = (self._rises <= ENOUGH * self._window) | stuck
        self.size = torch.where(halve, self.size / 2, self.size)
        self._was_halved, self._best_at_check = halve, best_loss
        self._rises, self._since = torch.zeros_like(self._rises), 0
        self._window = max(self._window - max(int(0.03 * self._steps), 1), max(int(0.06 * self._steps), 1))
        return halve


def apgd(
    query: Query, loss: Loss, x: Tensor, labels: Tensor, begin: Tensor, ball: Ball, steps: int, passes: int = 1
) -> Tensor:
    """Images in the ball around x (N, C, H, W), in [0,1]: for each row the first iterate that `query` gets wrong, else its best.

    `begin` is the first iterate, such as that of `balls.start`. Each gradient is the mean over `passes` forward passes, which
    differ in a model that is random. Ends early when all rows have fallen.
    """
    current = previous = begin
    gradient, losses, wrong = _look(query, loss, current, labels, passes)
    best, best_gradient, best_loss = current, gradient, losses
    found, fallen = current, wrong
    checkpoints = Checkpoints(losses, 2 * ball.eps, steps)

    for step in range(steps):
        if bool(fallen.all()):
            break
        # 1. A step, and a share of the step before.
        moved = stride(ball, x, current, previous, gradient, column(checkpoints.size, x), first=step == 0)
        previous, current = current, moved
        gradient, losses, wrong = _look(query, loss, current, labels, passes)

        # 2. The first iterate that fools the model, and the best one so far.
        found = torch.where(column(wrong & ~fallen, x), current, found)
        fallen = fallen | wrong
        better = losses > best_loss
        best = torch.where(column(better, x), current, best)
        best_gradient = torch.where(column(better, x), gradient, best_gradient)
        best_loss = torch.where(better, losses, best_loss)

        # 3. A checkpoint: smaller steps from the best point, where that helps.
        back = checkpoints.back(losses, best_loss)
        if back is not None:
            current = torch.where(column(back, x), best, current)
            gradient = torch.where(column(back, x), best_gradient, gradient)
    return torch.where(column(fallen, x), found, best)


def sparse(
    query: Query, loss: Loss, x: Tensor, labels: Tensor, begin: Tensor, eps: float, steps: int, passes: int = 1
) -> Tensor:
    """APGD for the l1 ball of radius eps (Croce and Hein, ICML 2021), with the arguments and the result of `apgd`.

    The search begins in a ball three times as large (`begin` is in it), and goes on in one twice as large. Each has 3 of 10 steps.
    """
    first = math.ceil(0.3 * steps)
    for factor, count in ((3, first), (2, first), (1, steps - 2 * first)):
        ball = L1(factor * eps)
        begin, found = _sparse(query, loss, x, labels, ball.project(begin, x), ball, count, passes, counts=factor == 1)
    return found


def _sparse(
    query: Query, loss: Loss, x: Tensor, labels: Tensor, begin: Tensor, ball: L1, steps: int, passes: int, counts: bool
) -> tuple[Tensor, Tensor]:
    """The iterate with the highest loss, and the first that is wrong or else the same, in one ball.

    If it `counts` that an iterate is wrong, the search ends when all rows have fallen.
    """
    entries = x[0].numel()
    current = begin
    gradient, losses, wrong = _look(query, loss, current, labels, passes)
    best, best_gradient, best_loss = current, gradient, losses
    found, fallen = current, wrong
    size = torch.full_like(column(losses, x), ball.eps)
    window, since = max(int(0.04 * steps), 1), 0
    changed = (current != x).flatten(1).sum(1)  # entries of the best point, at the last checkpoint

    for _ in range(steps):
        if counts and bool(fallen.all()):
            break
        # 1. A step of the entries with the largest gradients: as many as the best point changes, divided by 1.5.
        ordered = gradient.abs().flatten(1).sort(dim=1).values
        place = ((1 - changed / entries / SPARSER) * entries).clamp(0, entries - 1).long()
        least = column(ordered.gather(1, place[:, None])[:, 0], x)
        current = ball.project(ball.step(current, gradient * (gradient.abs() >= least), size), x)
        gradient, losses, wrong = _look(query, loss, current, labels, passes)

        # 2. The first iterate that fools the model, and the best one so far.
        found = torch.where(column(wrong & ~fallen, x), current, found)
        fallen = fallen | wrong
        better = losses > best_loss
        best = torch.where(column(better, x), current, best)
        best_gradient = torch.where(column(better, x), gradient, best_gradient)
        best_loss = torch.where(better, losses, best_loss)
        since += 1

        # 3. A checkpoint: whole steps again from the best point, where it has become sparser, else smaller ones.
        if since == window:
            count = (best != x).flatten(1).sum(1)
            sparser = column(count / changed < 0.95, x)
            size = torch.where(sparser, ball.eps, (size / SHRINK).clamp_min(ball.eps / 10))
            current, gradient = torch.where(sparser, best, current), torch.where(sparser, best_gradient, gradient)
            changed, since = count, 0
    return best, torch.where(column(fallen, x), found, best)


def _look(query: Query, loss: Loss, x: Tensor, labels: Tensor, passes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean gradient over `passes` forward passes. Loss (N,) and whether the model is wrong (N,) in the last of them."""
    leaf = x.detach().requires_grad_()
    total = torch.zeros_like(leaf)
    for _ in range(passes):
        with torch.enable_grad():
            logits = query(leaf)
            losses = loss(logits)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        total = total + gradient
    return total / passes, losses.detach(), logits.detach().argmax(1) != labels

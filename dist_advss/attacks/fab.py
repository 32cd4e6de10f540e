"""FAB (Croce and Hein, ICML 2020b): looks for the nearest image on the other side of a decision boundary.

Each step linearises the boundary between the label and another class, projects onto it inside the box [0,1], and mixes the
projection of the current point with that of the clean image. After each success it steps back towards the clean image. FAB-T
has one target class. FAB takes, in each step, the class whose boundary is the nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..row_maths import column
from .apgd import Query, margin
from .balls import Ball

OVERSHOOT = 1.05  # eta: how far beyond the boundary
TOWARDS_CLEAN = 0.1  # alpha_max: the largest weight of the clean image's projection
BACK = 0.9  # beta: what remains of a perturbation after a success

Boundary = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (N, C, H, W) to the logit of the other class minus that of the label, (N,), and the gradient of it, like the images."""


def towards(query: Query, labels: Tensor, targets: Tensor) -> Boundary:
    """FAB-T: the boundary to one class for each row, `targets` (N,)."""

    def boundary(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            difference = margin(query(leaf), labels, targets)
            (gradient,) = torch.autograd.grad(difference.sum(), leaf)
        return difference.detach(), gradient

    return boundary


def nearest(query: Query, labels: Tensor, ball: Ball) -> Boundary:
    """FAB: the boundary that is the nearest one if the logits were linear. One backward pass for each class."""

    def boundary(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = query(leaf)
            gradients = [
                torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)[0] for k in range(logits.shape[1])
            ]
        z, rows = logits.detach(), torch.arange(len(x), device=x.device)
        of_class = torch.stack(gradients, 1)  # (N, classes, C, H, W)
        differences = z - z[rows, labels][:, None]
        slopes = of_class - of_class[rows, labels][:, None]
        steepness = torch.stack([ball.dual(slopes[:, k]) for k in range(z.shape[1])], 1)
        distances = (differences.abs() / (steepness + 1e-12)).scatter(1, labels[:, None], torch.inf)
        chosen = distances.argmin(1)
        return differences[rows, chosen], slopes[rows, chosen]

    return boundary


def fab(query: Query, boundary: Boundary, x: Tensor, labels: Tensor, begin: Tensor, ball: Ball, steps: int) -> Tensor:
    """Images (N, C, H, W) in [0,1]: for each row the first that `query` gets wrong in the ball around x, else x itself.

    The search starts at `begin`, which is x itself in the first of several starts. It ends early when all rows have fallen.
    """
    current, found = begin, x
    fallen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(steps):
        if bool(fallen.all()):
            break
        # 1. The hyperplane w z = b, where the linearised logits of the label and the other class are equal.
        difference, gradient = boundary(current)
        w, z = gradient.flatten(1), current.flatten(1)
        b = (w * z).sum(1) - difference

        # 2. The projections of the current point and of the clean image. The shorter one has more weight.
        from_current, from_clean = (ball.reach(p, w, b).view_as(x) for p in (z, x.flatten(1)))
        near, far = (ball.length(d).clamp_min(1e-8) for d in (from_current, from_clean))
        weight = column((near / (near + far)).clamp(0, TOWARDS_CLEAN), x)
        from_current, from_clean = OVERSHOOT * from_current, OVERSHOOT * from_clean
        current = ((current + from_current) * (1 - weight) + (x + from_clean) * weight).clamp(0, 1)

        # 3. A success counts within eps. The search continues from nearer to the clean image.
        with torch.no_grad():
            wrong = query(current).argmax(1) != labels
        close = ball.length(current - x) <= ball.eps
        found = torch.where(column(wrong & close & ~fallen, x), current, found)
        fallen = fallen | (wrong & close)
        current = torch.where(column(wrong, x), x + (current - x) * BACK, current)
    return found

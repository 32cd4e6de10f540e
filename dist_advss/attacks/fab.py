"""FAB-T (Croce and Hein, ICML 2020b), l-inf: looks for the nearest image on the other side of a decision boundary.

Each step linearises the boundary between the label and one target class, projects onto it inside the box [0,1], and mixes the
projection of the current point with that of the clean image. After each success it steps back towards the clean image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..row_maths import column
from .apgd import Query, margin

OVERSHOOT = 1.05  # eta: how far beyond the boundary
TOWARDS_CLEAN = 0.1  # alpha_max: the largest weight of the clean image's projection
BACK = 0.9  # beta: what remains of a perturbation after a success


def fab(query: Query, x: Tensor, labels: Tensor, targets: Tensor, eps: float, steps: int) -> Tensor:
    """Images (N, C, H, W) in [0,1]: for each row the first that `query` gets wrong within eps of x, else x itself.

    The search is deterministic: it starts at x. It ends early when all rows have fallen.
    """
    current, found = x, x
    fallen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(steps):
        if bool(fallen.all()):
            break
        # 1. The hyperplane w z = b, where the linearised logits of label and target are equal.
        leaf = current.detach().requires_grad_()
        with torch.enable_grad():
            difference = margin(query(leaf), labels, targets)
            (gradient,) = torch.autograd.grad(difference.sum(), leaf)
        w, z = gradient.flatten(1), current.flatten(1)
        b = (w * z).sum(1) - difference.detach()

        # 2. The projections of the current point and of the clean image. The shorter one has more weight.
        from_current, from_clean = project(z, w, b), project(x.flatten(1), w, b)
        near, far = (d.abs().amax(1).clamp_min(1e-8) for d in (from_current, from_clean))
        weight = column((near / (near + far)).clamp(0, TOWARDS_CLEAN), x)
        from_current, from_clean = (OVERSHOOT * d.view_as(x) for d in (from_current, from_clean))
        current = ((current + from_current) * (1 - weight) + (x + from_clean) * weight).clamp(0, 1)

        # 3. A success counts within eps. The search continues from nearer to the clean image.
        with torch.no_grad():
            wrong = query(current).argmax(1) != labels
        close = (current - x).abs().flatten(1).amax(1) <= eps
        found = torch.where(column(wrong & close & ~fallen, x), current, found)
        fallen = fallen | (wrong & close)
        current = torch.where(column(wrong, x), x + (current - x) * BACK, current)
    return found


def project(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The l-inf smallest d (N, D) with w (z + d) = b and z + d in [0,1]; the nearest that the box allows where there is none.

    z and w are (N, D), z in [0,1], b is (N,). Every entry moves by the same length, or as far as the box lets it.
    """
    gap = (w * z).sum(1) - b
    w = w * torch.where(gap >= 0, 1.0, -1.0)[:, None]  # so that the way to the hyperplane is against w
    gap, weight = gap.abs()[:, None], w.abs()
    room = torch.where(w > 0, z, 1 - z)

    # `reached` is what is gained when all entries have moved as far as the k-th smallest room. It grows with k.
    order = room.argsort(dim=1, stable=True)
    rooms, weights = room.gather(1, order), weight.gather(1, order)
    spent = (rooms * weights).cumsum(1) - rooms * weights  # by entries that have met the box before
    free = weights.flip(1).cumsum(1).flip(1)
    reached = spent + rooms * free
    k = (reached < gap).sum(1, keepdim=True)
    inside = k.clamp_max(z.shape[1] - 1)
    length = (gap - spent.gather(1, inside)) / free.gather(1, inside).clamp_min(1e-30)
    length = torch.where(k < z.shape[1], length.clamp_min(0), 1.0)
    return -w.sign() * torch.minimum(length, room)

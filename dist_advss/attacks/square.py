"""Square Attack (Andriushchenko et al., ECCV 2020), l-inf: a random search that asks for logits only, never for a gradient.

Each query changes one square of the image to +-eps for each channel, and keeps the change where the margin falls.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import Rng
from ..row_maths import column
from .apgd import Query

FIRST_SHARE = 0.8  # of the pixels in the first squares
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries


def square(query: Query, x: Tensor, labels: Tensor, rng: Rng, name: str, eps: float, queries: int) -> Tensor:
    """Images within eps of x (N, C, H, W) in [0,1], the lowest margin that `queries` random changes find for each row.

    Each row has its own squares and signs, drawn from `rng` under `name`. A row that has fallen changes no more.
    """
    channels, height, width = x.shape[1:]
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    with torch.no_grad():
        # Vertical stripes to begin with.
        best = x + eps * _signs(rng, f"{name}.stripes", (channels, 1, width))
        best = torch.minimum(torch.maximum(best, low), high)
        best_margin = _margin(query, best, labels)
        for i in range(queries):
            standing = best_margin > 0
            if not bool(standing.any()):
                break
            side = side_of(i, height, width)
            top = rng.integers(f"{name}.{i}.top", max(height - side, 1))[:, None]
            left = rng.integers(f"{name}.{i}.left", max(width - side, 1))[:, None]
            rows = (down >= top) & (down < top + side)
            columns = (across >= left) & (across < left + side)
            inside = (rows[:, :, None] & columns[:, None, :])[:, None]
            change = 2 * eps * _signs(rng, f"{name}.{i}.sign", (channels, 1, 1))
            tried = torch.minimum(torch.maximum(best + change * inside, low), high)
            tried_margin = _margin(query, tried, labels)
            better = standing & (tried_margin < best_margin)
            best = torch.where(column(better, x), tried, best)
            best_margin = torch.where(better, tried_margin, best_margin)
    return best


def side_of(query: int, height: int, width: int) -> int:
    """The side of the square of a query, 0 the first: its area is halved after HALVED_AFTER."""
    share = FIRST_SHARE / 2 ** sum(query > after for after in HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _signs(rng: Rng, name: str, shape: tuple[int, ...]) -> Tensor:
    return rng.integers(name, 2, shape).float() * 2 - 1


def _margin(query: Query, x: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, (N,)."""
    logits = query(x)
    right = logits.gather(1, labels[:, None])
    return (right[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).detach()

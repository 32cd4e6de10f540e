"""Arithmetic on each row of a batch by itself: tensors are (N, …), a row is everything after the first dimension."""

from __future__ import annotations

import torch
from torch import Tensor


def lengths(x: Tensor) -> Tensor:
    """(N, 1, …, 1): the l2 length of each row."""
    return torch.linalg.vector_norm(x, dim=_within(x), keepdim=True)


def unit(x: Tensor) -> Tensor:
    """Each row scaled to length 1. A zero row stays zero, and a NaN counts as zero. For gradients that only point the way."""
    x = x.nan_to_num()
    # The gradient of a very sure model may be 1e-20 long and still has a direction. Divided by its largest entry first,
    # its squares neither underflow nor overflow.
    x = x / x.abs().amax(_within(x), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / lengths(x).clamp_min(1)


def differentiable_unit(x: Tensor) -> Tensor:
    """As `unit`, for a result that is differentiated again. A NaN stays NaN."""
    # The largest entry enters as a constant, which changes neither the direction nor its derivative. A sum of squares has
    # a derivative at zero, where a norm has none.
    x = x / x.detach().abs().amax(_within(x), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / x.square().sum(_within(x), keepdim=True).clamp_min(1).sqrt()


def column(rows: Tensor, like: Tensor) -> Tensor:
    """(N,) as (N, 1, …, 1), which broadcasts against `like`."""
    return rows.view(-1, *[1] * (like.dim() - 1))


def lead(logits: Tensor, classes: Tensor) -> Tensor:
    """(N,): how far the logit of each row's class in `classes` (N,) int64 is above the largest other one of logits (N, K)."""
    own = classes[:, None]
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)


def _within(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.dim()))

"""Collective operations that can be differentiated, any number of times. A process alone gets back what it gave."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class AllReduce(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient)


class GatherRows(torch.autograd.Function):
    """The rows of all processes in the order of ranks. A row's gradient is the sum of what every process has for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        shares = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, x.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient).chunk(dist.get_world_size())[dist.get_rank()]


def all_reduce(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, which all call this with the same shape."""
    total: Tensor = AllReduce.apply(x) if several() else x
    return total


def mean(x: Tensor) -> Tensor:
    """The mean of `x` over all processes, which all call this with the same shape."""
    return all_reduce(x) / dist.get_world_size() if several() else x


def gather_rows(x: Tensor) -> Tensor:
    """`x` (n, …) of every process as (n * processes, …), in the order of ranks: the rows of the global batch.

    All processes call this with the same shape, and all of them go through the backward pass. With it, a loss that is the
    mean over a process's own rows has the gradient of the mean over the global batch, once an engine has averaged.
    """
    rows: Tensor = GatherRows.apply(x) if several() else x
    return rows


def first_row(x: Tensor) -> int:
    """Where the rows of this process's `x` begin in `gather_rows(x)`."""
    return dist.get_rank() * len(x) if several() else 0


def several() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

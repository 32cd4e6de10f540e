"""Batch norm over several processes: computed over the global batch, or over each share and then reconciled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..collectives import all_reduce
from ..models.norms import BATCH_NORMS
from .world import World

# Of models.norms.BATCH_NORMS, the two that see this process's images only. nn.SyncBatchNorm is synchronised already.
LOCAL_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of the global batch (Ioffe and Szegedy 2015), on any device and differentiable twice.

    nn.SyncBatchNorm runs on GPUs only. All processes must hold equally many images. A forward pass takes one collective:
    means, their squares and variances travel together. Means are relative to the running mean, which is the same in all
    processes, so that no digits cancel.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        dims = [d for d in range(x.dim()) if d != 1]
        values = x if x.dtype == torch.float64 else x.float()
        origin = self.running_mean.clone()
        mean = values.mean(dims) - origin
        variance = values.var(dims, correction=0)
        total = all_reduce(torch.stack([mean, mean.square(), variance])) / dist.get_world_size()
        mean, variance = total[0] + origin, total[2] + total[1] - total[0].square()
        if self.track_running_stats:
            self._move(mean.detach(), variance.detach(), values.numel() // values.shape[1])
        scale = self.weight / torch.sqrt(variance + self.eps)
        shape = [1, -1] + [1] * (x.dim() - 2)
        return ((values - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows of features (N, C) are as welcome as images: it also stands in for nn.BatchNorm1d."""

    def _move(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        count *= dist.get_world_size()
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def synchronise(module: nn.Module, device: torch.device, twice: bool = False) -> nn.Module:
    """Replaces every batch norm of `module` by one over the global batch. The state dict stays the same.

    On GPUs it is nn.SyncBatchNorm. On CPUs, and where gradients are differentiated again (`twice`), it is the class above,
    because nn.SyncBatchNorm supports neither.
    """
    if device.type == "cuda" and not twice:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, LOCAL_BATCH_NORMS):
            fresh = SyncBatchNorm(child.num_features, child.eps, child.momentum, dtype=child.weight.dtype)
            fresh.load_state_dict(child.state_dict())
            for new, old in zip(fresh.parameters(), child.parameters(), strict=True):
                new.requires_grad_(old.requires_grad)
            setattr(module, name, fresh.train(child.training))
        else:
            synchronise(child, device, twice)
    return module


def in_parts(module: nn.Module, parts: int) -> None:
    """Makes running statistics move as far in the `parts` forward passes of an update as they would in one.

    A share m of the way becomes 1 - (1 - m)^(1/parts) for each.
    """
    for norm in module.modules():
        if isinstance(norm, BATCH_NORMS) and norm.momentum is not None:
            norm.momentum = 1 - (1 - norm.momentum) ** (1 / parts)


def reconcile(module: nn.Module, world: World) -> None:
    """Replaces running statistics by their means over all processes, in place. All processes call it.

    Moving averages are linear, so the means at the end of an epoch do not depend on how often this was done during it.
    """
    statistics = list(own_statistics(module).values())
    if world.size == 1 or not statistics:
        return
    means = world.mean(_flat(statistics).double())  # one collective for all of them
    for statistic, mean in zip(statistics, _split(means, statistics), strict=True):
        statistic.copy_(mean)


def gather_statistics(module: nn.Module, world: World) -> Tensor | None:
    """The running statistics of every process, (processes, values), on rank 0. All processes call it.

    None on the other ranks, and where they are the same in all processes.
    """
    statistics = list(own_statistics(module).values())
    if world.size == 1 or not statistics:
        return None
    rows = world.gather(_flat(statistics).cpu())
    return None if rows is None or all(torch.equal(row, rows[0]) for row in rows) else torch.stack(rows)


def average(rows: Tensor, module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Replaces the running statistics in `weights`, the state dict of `module`, by the means of `gather_statistics`.

    The tensors of `weights` may be those of the module itself, so they are replaced and not written to.
    """
    statistics = own_statistics(module)
    means = _split(rows.double().mean(0), list(statistics.values()))
    for (name, statistic), mean in zip(statistics.items(), means, strict=True):
        weights[name] = mean.to(statistic.dtype)


def load_statistics(module: nn.Module, rows: Tensor, world: World) -> None:
    """Gives this process its row of what `gather_statistics` returned. With another number of processes it does nothing.

    Raises RuntimeError for rows of another module.
    """
    if len(rows) != world.size:
        return
    statistics = list(own_statistics(module).values())
    for statistic, own in zip(statistics, _split(rows[world.rank], statistics), strict=True):
        statistic.copy_(own)


@contextlib.contextmanager
def unmoved(module: nn.Module) -> Iterator[None]:
    """Inside, forward passes leave no trace: afterwards the buffers of `module` are what they were, to the last bit."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def own_statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics that each process computes from its own images, by their names in the state dict."""
    return {
        f"{name}.{key}" if name else key: getattr(norm, key)
        for name, norm in module.named_modules(remove_duplicate=False)
        if isinstance(norm, LOCAL_BATCH_NORMS) and not isinstance(norm, SyncBatchNorm) and norm.running_mean is not None
        for key in ("running_mean", "running_var")
    }


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _split(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Consecutive parts of `flat` in the shapes of `like`. Raises RuntimeError when it has another number of values."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]

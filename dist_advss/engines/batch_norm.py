"""Batch norm over several processes: computed over the global batch, or over each share and then reconciled."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..collectives import all_reduce
from ..models.norms import BATCH_NORMS
from .world import World

# Of BATCH_NORMS, the two that see this process's images only. nn.SyncBatchNorm is synchronised already.
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


def reconcile(module: nn.Module, world: World) -> None:
    """Replaces running statistics by their means over all processes.

    A checkpoint therefore does not depend on the process that saved it. Moving averages are linear, so the values do not
    depend on when or how often this is done.
    """
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]
    if world.size == 1 or not norms:
        return
    statistics = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    flat = torch.cat([statistic.double().flatten() for statistic in statistics])  # one collective for all of them
    means = world.mean(flat).split([statistic.numel() for statistic in statistics])
    for statistic, mean in zip(statistics, means, strict=True):
        statistic.copy_(mean.view_as(statistic))

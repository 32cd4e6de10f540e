"""Batch norm over processes: as over the whole batch, to the second derivative; or apart, and then reconciled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dist_advss.config.compose import compose
from dist_advss.engines.batch_norm import SyncBatchNorm, reconcile, synchronise

from . import jobs

IMAGES = (8, 3, 5, 5)


def images() -> torch.Tensor:
    return 3 + 2 * torch.randn(IMAGES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def probe(norm: nn.Module, x: torch.Tensor, total: Any) -> dict[str, torch.Tensor]:
    """Output, input gradient of a sum over all processes, and the gradient of that gradient's length."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (gradient,) = torch.autograd.grad((y * y.detach().roll(1, 3)).sigmoid().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    return {"y": y.detach(), "gradient": gradient.detach(), "second": second, **dict(norm.named_buffers())}


def synchronised(out: Path) -> None:
    config = compose("pretrain", ["engine=ddp", "out=RUN"])
    with jobs.world_of(config) as world:
        norm = synchronise(nn.Sequential(nn.BatchNorm2d(3).double()), world.device)[0]  # type: ignore[index]
        assert isinstance(norm, SyncBatchNorm)
        share = images().chunk(world.size)[world.rank]
        found = world.gather(probe(norm, share, world))
        if world.rank == 0:
            jobs.save(out, found)


@pytest.mark.parametrize("world_size", [2, 4])
def test_synchronised_statistics_are_those_of_the_whole_batch(world_size: int, start: Any, tmp_path: Path) -> None:
    ranks = start(world_size, synchronised, tmp_path / "found.pt")
    assert ranks.wait() == [0] * world_size, ranks.said()
    shares = torch.load(tmp_path / "found.pt")
    whole = probe(nn.BatchNorm2d(3).double(), images(), None)
    for name in ("y", "gradient", "second"):
        torch.testing.assert_close(torch.cat([share[name] for share in shares]), whole[name], rtol=1e-9, atol=1e-12)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert all(torch.allclose(share[name].double(), whole[name].double(), rtol=1e-9) for share in shares)


def apart(out: Path) -> None:
    config = compose("pretrain", ["engine=ddp", "out=RUN"])
    with jobs.world_of(config) as world:
        norm = nn.BatchNorm2d(3)
        for part in images().float().chunk(world.size)[world.rank].chunk(2):
            norm(part)
        mine = {name: t.clone() for name, t in norm.named_buffers()}
        reconcile(norm, world)
        found = world.gather((mine, dict(norm.named_buffers())))
        if world.rank == 0:
            jobs.save(out, found)


def test_reconciled_statistics_are_the_means_over_processes_and_the_same_everywhere(start: Any, tmp_path: Path) -> None:
    ranks = start(4, apart, tmp_path / "found.pt")
    assert ranks.wait() == [0] * 4, ranks.said()
    found = torch.load(tmp_path / "found.pt")
    for name in ("running_mean", "running_var"):
        mean = torch.stack([before[name] for before, _ in found]).mean(0)
        assert not torch.allclose(found[0][0][name], mean, rtol=1e-3)
        for _, after in found:
            torch.testing.assert_close(after[name], mean)
            assert torch.equal(after[name], found[0][1][name])

"""NT-Xent over several processes: its negatives are the views that all of them hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_advss.config.schema import Guard
from dist_advss.engines import find_place, init
from dist_advss.objectives import simclr

ROWS, WIDTH = 8, 6


def points() -> Tensor:
    return torch.randn(2, ROWS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def share(out: Path, gathered: bool) -> None:
    """This process's part of the loss, and the gradient of the mean over all processes with regard to one weight matrix."""
    with init("cpu", 1, Guard(), find_place()) as world:
        rows = torch.arange(ROWS).chunk(world.size)[world.rank]
        weight = torch.eye(WIDTH, dtype=torch.float64).add(0.1).requires_grad_()
        one, two = (torch.nn.functional.normalize(x[rows] @ weight, dim=1) for x in points())
        if not gathered:
            simclr.gather_rows, simclr.first_row = lambda x: x, lambda x: 0
        loss = simclr.nt_xent(one, two, 0.5).loss
        (gradient,) = torch.autograd.grad(loss.mean(), weight)
        gradient = world.mean(gradient)
        losses = world.gather(loss.detach())
        if losses is not None:
            torch.save({"losses": torch.cat(losses), "gradient": gradient}, out)


def on(size: int, gathered: bool, start: Any, folder: Path) -> dict[str, Tensor]:
    out = folder / f"{size}-{gathered}.pt"
    ranks = start(size, share, out, gathered)
    assert ranks.wait() == [0] * size, ranks.said()
    found: dict[str, Tensor] = torch.load(out)
    return found


def test_its_negatives_are_those_of_all_processes(start: Any, tmp_path: Path) -> None:
    """The control: without gathering, two processes have other losses and other gradients."""
    one = on(1, True, start, tmp_path)
    for size in (2, 4):
        several = on(size, True, start, tmp_path)
        for name in ("losses", "gradient"):
            torch.testing.assert_close(several[name], one[name], rtol=1e-10, atol=1e-12)
    apart = on(2, False, start, tmp_path)
    assert all((apart[name] - one[name]).abs().max() > 1e-2 for name in ("losses", "gradient"))

"""NT-Xent over several processes: its negatives are the views that all of them hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.config.schema import Guard
from dist_advss.engines import find_place, init
from dist_advss.engines.batch_norm import synchronise
from dist_advss.images import pack
from dist_advss.objectives import build, simclr
from dist_advss.rng import Rng

from . import jobs

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


def step(out: Path) -> None:
    """Attack, loss and gradient of one step of SimCLR in float64, through batch norm over all processes."""
    jobs.smooth(modules=True)
    with init("cpu", 1, Guard(), find_place()) as world:
        words = ["objective=simclr", "objective.projector=8", "objective.pairs=ds", "attack.norm=l2"]
        config = compose("pretrain", [*jobs.SMALL, *words, "model.width=4", f"out={out}"])
        objective = build(config).double()  # type: ignore[arg-type]
        if world.size > 1:
            synchronise(objective, world.device)
        rows = torch.arange(ROWS).chunk(world.size)[world.rank]
        pixels = torch.rand(2, ROWS, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        task = objective.prepare((pixels[0][rows], pixels[1][rows]), rows, Rng(0).rows(rows))
        threat = Attack(norm="l2", eps=1.0, step_size=0.3, steps=3)
        x_adv = PGD(threat, objective, couples_rows=True)(objective.attack_loss, task)
        outcome = objective(task, x_adv)
        outcome.loss.backward()
        found = {name: world.mean(p.grad) for name, p in objective.named_parameters() if p.grad is not None}
        shares = world.gather(torch.stack(pack(x_adv), 1))
        if shares is not None:
            torch.save(found | {"x_adv": torch.cat(shares), "loss": outcome.loss.detach()}, out)


def test_a_step_over_two_processes_is_that_of_one_in_double_precision(start: Any, tmp_path: Path) -> None:
    """What differs in fp32 is rounding, then: three batch norms over 32 rows of features enlarge it."""
    found = []
    for size in (1, 2):
        ranks = start(size, step, tmp_path / f"{size}.pt")
        assert ranks.wait() == [0] * size, ranks.said()
        found.append(torch.load(tmp_path / f"{size}.pt"))
    one, two = found
    assert one.keys() == two.keys()
    for name in one.keys() - {"loss"}:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-8)

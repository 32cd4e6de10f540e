"""NT-Xent over several processes, whose negatives are the views that all of them hold; and steps in float64."""

from __future__ import annotations

from collections import ChainMap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.config.schema import Guard
from dist_advss.engines import World, find_place, init
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


ANCHOR = ["objective=anchor", "objective.teacher=elsewhere", "objective.away_from=student"]


def step(out: Path) -> None:
    """A step of SimCLR, one of DynACL and one of a student with a frozen teacher."""
    jobs.smooth(modules=True)
    with init("cpu", 1, Guard(), find_place()) as world:
        plain = ["objective=simclr", "objective.pairs=ds"]
        found = [taken(words, world) for words in (plain, ["objective=dynacl", "objective.momentum=0.5"], ANCHOR)]
        if world.rank == 0:
            torch.save(dict(ChainMap(*found)), out)


def taken(words: list[str], world: World) -> dict[str, Tensor]:
    """Attack, gradients and weights of one step in float64, through batch norm over all processes, and an average of them."""
    words = [*jobs.SMALL, *words, "objective.projector=8", "model.width=4", "schedule.epochs=100", "out=RUN"]
    config: Any = compose("pretrain", words)
    objective = build(config).double()
    if world.size > 1:
        synchronise(objective, world.device)
    rows = torch.arange(ROWS).chunk(world.size)[world.rank]
    pixels = torch.rand(2, ROWS, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    views = tuple(pixels[view][rows] for view in range(config.objective.views))
    task = objective.prepare(views if len(views) > 1 else views[0], rows, Rng(0).at(60, 0).rows(rows))
    threat = Attack(norm="l2", eps=1.0, step_size=0.3, steps=3)
    attack = PGD(threat, objective, couples_rows=config.objective.couples_rows)
    x_adv = attack(objective.attack_loss, task)
    objective(task, x_adv).loss.backward()
    found = {}
    for name, p in objective.named_parameters():
        if p.requires_grad:
            assert p.grad is not None
            found[f"gradient of {name}"] = world.mean(p.grad)
            p.data -= 0.1 * found[f"gradient of {name}"]
    objective.after_update()
    shares = world.gather(torch.stack(pack(x_adv), 1))
    found |= objective.state_dict() | {"x_adv": torch.cat(shares or [pixels])}
    return {f"{words[len(jobs.SMALL)]} {name}": tensor for name, tensor in found.items()}


def test_a_step_over_several_processes_is_that_of_one_in_double_precision(start: Any, tmp_path: Path) -> None:
    """What differs in fp32 is rounding, then: three batch norms over 32 rows of features enlarge it."""
    found = []
    for size in (1, 2, 4):
        ranks = start(size, step, tmp_path / f"{size}.pt")
        assert ranks.wait() == [0] * size, ranks.said()
        found.append(torch.load(tmp_path / f"{size}.pt"))
    one, *others = found
    assert {name.split()[0] for name in one} == {"objective=simclr", "objective=dynacl", "objective=anchor"}
    assert any(name.startswith("objective=dynacl encoder.") for name in one)
    assert one["objective=anchor gradient of encoder.conv1.weight"].abs().max() > 1e-3
    for several in others:
        assert one.keys() == several.keys()
        for name in one:
            torch.testing.assert_close(several[name], one[name], rtol=1e-6, atol=1e-8)

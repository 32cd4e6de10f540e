"""TRADES attacks a divergence from clean logits and learns from it. Over two processes both are what they are in one.

In float64: the gradient of a divergence is small beside its terms, so that fp32 leaves a tenth of a thousandth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.config.schema import Guard
from dist_advss.engines import find_place, init
from dist_advss.engines.batch_norm import synchronise
from dist_advss.objectives import build
from dist_advss.rng import Rng

from . import jobs

ROWS = 16


def step(out: Path) -> None:
    """The attacked images and the gradients of one step, through batch norm over all processes."""
    config = compose("finetune", [*jobs.SMALL, "objective=trades", "model.width=4", "out=RUN"])
    with init("cpu", 1, Guard(), find_place()) as world:
        jobs.smooth()
        objective = build(config).double()
        if world.size > 1:
            synchronise(objective, world.device)
        rows = torch.arange(ROWS).chunk(world.size)[world.rank]
        pixels = torch.rand(ROWS, 1, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        task = objective.prepare(pixels[rows], rows % 10, Rng(0).at(0, 0).rows(rows))
        x_adv = PGD(Attack(norm="l2", eps=1.0, step_size=0.3, steps=3), objective)(objective.attack_loss, task)
        objective(task, x_adv).loss.backward()
        found = {name: world.mean(p.grad) for name, p in objective.named_parameters() if p.grad is not None}
        shares = world.gather(x_adv)
        if shares is not None:
            torch.save({**found, "x_adv": torch.cat(shares)}, out)


def test_two_processes_attack_and_learn_a_divergence_as_one_does(start: Any, tmp_path: Path) -> None:
    for size in (1, 2):
        ranks = start(size, step, tmp_path / f"{size}.pt")
        assert ranks.wait() == [0] * size, ranks.said()
    one, two = (torch.load(tmp_path / f"{size}.pt") for size in (1, 2))
    assert one.keys() == two.keys() and len(one) > 20
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-8, atol=1e-12, msg=lambda said, name=name: f"{name}: {said}"
        )

"""An objective whose rows depend on each other: with rows gathered, two processes compute what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.collectives import gather_rows
from dist_advss.config.attack import Attack
from dist_advss.config.schema import Guard
from dist_advss.engines import find_place, init
from dist_advss.images import Images, alone
from dist_advss.objectives.base import Judgement, Objective, Task
from dist_advss.rng import Rng

ROWS = 8


class Spread(Objective):
    """Each row's loss is the squared distance of its embedding to the mean embedding of the batch."""

    clean_weight = 0.0

    def __init__(self, gathered: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.SiLU(), nn.Linear(16, 5)).double()
        self.gathered = gathered

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        return Task(images, labels, rng)

    def judge(self, x: Images, task: Task) -> Judgement:
        own = self.encoder(alone(x))
        batch = gather_rows(own) if self.gathered else own
        loss = (own - batch.mean(0)).square().sum(1)
        return Judgement(loss, (loss.detach() < 1).float())


def step(out: Path, gathered: bool, precision: str) -> None:
    """Attack and loss of one step, and its gradient averaged over the processes."""
    with init("cpu", 1, Guard(), find_place()) as world:
        objective = Spread(gathered)
        rows = torch.arange(ROWS).chunk(world.size)[world.rank]
        images = torch.rand(ROWS, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[rows]
        task = objective.prepare(images, rows, Rng(0).rows(rows))
        config = Attack(norm="l2", eps=0.3, step_size=0.1, steps=3, precision=precision)
        x_adv = PGD(config, objective, couples_rows=True)(objective.attack_loss, task)
        outcome = objective(task, x_adv)
        outcome.loss.backward()
        gradients = [world.mean(p.grad) for p in objective.parameters() if p.grad is not None]
        shares = world.gather((outcome.adversarial.loss.detach(), x_adv))
        if shares is not None:
            losses, examples = (torch.cat(parts) for parts in zip(*shares, strict=True))
            torch.save(
                {"losses": losses, "x_adv": examples, **{f"gradient{i}": g for i, g in enumerate(gradients)}}, out
            )


def on(size: int, gathered: bool, precision: str, start: Any, folder: Path) -> dict[str, Tensor]:
    out = folder / f"{size}-{gathered}.pt"
    ranks = start(size, step, out, gathered, precision)
    assert ranks.wait() == [0] * size, ranks.said()
    found: dict[str, Tensor] = torch.load(out)
    return found


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    return {name: (a[name] - b[name]).abs().max().item() for name in a}


def test_losses_examples_and_gradients_are_those_of_one_process(start: Any, tmp_path: Path) -> None:
    one, two = (on(size, True, "fp32", start, tmp_path) for size in (1, 2))
    assert max(largest_difference(one, two).values()) < 1e-6  # losses are summed in fp32
    assert len(one["losses"]) == len(two["x_adv"]) == ROWS


def test_without_gathering_they_are_not(start: Any, tmp_path: Path) -> None:
    """The control: the comparison above sees rows that only meet the rows of their own process."""
    one, two = (on(size, False, "fp32", start, tmp_path) for size in (1, 2))
    differences = largest_difference(one, two)
    assert min(differences[name] for name in ("losses", "x_adv", "gradient0")) > 1e-3


def both_derivatives(out: Path) -> None:
    """First and second derivative of a function of gathered rows."""
    with init("cpu", 1, Guard(), find_place()) as world:
        rows = torch.arange(4).chunk(world.size)[world.rank]
        x = torch.linspace(0.2, 1.4, 4, dtype=torch.float64)[rows].requires_grad_()
        total = (x * gather_rows(x).pow(3).sum()).sum()
        (first,) = torch.autograd.grad(total, x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        shares = world.gather((first.detach(), second))
        if shares is not None:
            torch.save([torch.cat(parts) for parts in zip(*shares, strict=True)], out)


def test_gathered_rows_can_be_differentiated_twice(start: Any, tmp_path: Path) -> None:
    found = []
    for size in (1, 2):
        ranks = start(size, both_derivatives, tmp_path / f"{size}.pt")
        assert ranks.wait() == [0] * size, ranks.said()
        found.append(torch.load(tmp_path / f"{size}.pt"))
    for alone_, together in zip(*found, strict=True):
        assert torch.allclose(alone_, together, rtol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fp16_scales_coupled_rows_alike(precision: str) -> None:
    """A row of a tiny loss has no more say in the others' gradients than in fp32."""
    weight = torch.tensor([1.0, 1e-3, 1.0, 1e-3])
    task = Task(torch.rand(4, 1, 2, 2, generator=torch.manual_seed(0)), torch.zeros(4), Rng(0).rows(torch.arange(4)))

    def loss(x: Tensor, task: Task) -> Tensor:
        return weight * (x.flatten(1) - x.flatten(1).mean(0)).square().sum(1)

    config = Attack(norm="l2", eps=1.0, step_size=0.1, steps=1, random_start=False, precision=precision)
    found = PGD(config, nn.Identity(), couples_rows=True)(loss, task)
    x = task.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, task).sum(), x)
    expected = task.inputs + 0.1 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-4)

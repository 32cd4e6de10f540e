"""PGD against torchattacks and against a plain loop written here from the paper, from the same start on the same model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.images import Images
from dist_advss.objectives.base import Task
from dist_advss.rng import Rng

N = 16


class From(PGD):
    """PGD from given starting points instead of its own."""

    def __init__(self, config: Attack, module: nn.Module, start: Tensor) -> None:
        super().__init__(config, module)
        self.given = start

    def start(self, task: Task, restart: int) -> tuple[Tensor, ...]:
        return (self.given,)


def plain_loop(net: nn.Module, start: Tensor, clean: Tensor, labels: Tensor, attack: Attack) -> Tensor:
    """One image after the other, pixel box and ball written out."""
    found = []
    assert attack.step_size is not None
    for x, centre, label in zip(start, clean, labels, strict=True):
        for _ in range(attack.steps):
            x = x.detach().requires_grad_()
            log_p = net(x[None]).log_softmax(1)[0, label]
            (gradient,) = torch.autograd.grad(-log_p, x)
            with torch.no_grad():
                if attack.norm == "linf":
                    x = x + attack.step_size * gradient.sign()
                    x = torch.minimum(torch.maximum(x, centre - attack.eps), centre + attack.eps)
                else:
                    delta = x + attack.step_size * gradient / gradient.square().sum().sqrt() - centre
                    length = delta.square().sum().sqrt().item()
                    x = centre + (delta if length <= attack.eps else delta * (attack.eps / length))
                x = x.clamp(0, 1)
        found.append(x.detach())
    return torch.stack(found)


def cross_entropy(net: nn.Module):
    return lambda x, task: nn.functional.cross_entropy(net(x), task.targets, reduction="none")


ATTACKS = {
    "paper": Attack(eps=8 / 255, step_size=2 / 255, steps=10),
    "linf": Attack(eps=0.1, step_size=0.03, steps=7),
    "l2": Attack(norm="l2", eps=128 / 255, step_size=15 / 255, steps=10),
    "l2, wide": Attack(norm="l2", eps=3.0, step_size=1.0, steps=5),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


@each_attack
@pytest.mark.parametrize("random_start", [True, False])
def test_x_adv_equals_torchattacks_from_the_same_start(trained, attack: Attack, random_start: bool) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="pip install --no-deps torchattacks: the peer is missing")
    images, labels = trained.images[:N], trained.labels[:N]
    name = {"linf": "PGD", "l2": "PGDL2"}[attack.norm]
    peer = getattr(torchattacks, name)(
        trained.net, eps=attack.eps, alpha=attack.step_size, steps=attack.steps, random_start=random_start
    )
    start = images
    with torch.random.fork_rng(devices=[]):
        if random_start:  # the peer draws from the global generator; draw the same before it does
            torch.manual_seed(0)
            if attack.norm == "linf":
                noise = torch.empty_like(images).uniform_(-attack.eps, attack.eps)
            else:
                noise = torch.empty_like(images).normal_()
                length = noise.flatten(1).norm(dim=1).view(N, 1, 1, 1)
                noise = noise * (torch.zeros_like(length).uniform_(0, 1) / length * attack.eps)
            start = (images + noise).clamp(0, 1)
        torch.manual_seed(0)
        theirs = peer(images, labels)

    ours = From(attack, trained.net, start)(trained.loss, trained.task(N))
    assert (ours - theirs).abs().max() < 1e-5  # five steps of length 1 amplify fp32 rounding
    assert (ours - images).abs().max() > 0.01


@each_attack
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("clamp_start", [True, False])
def test_x_adv_equals_a_plain_loop_over_images(trained, attack: Attack, random_start: bool, clamp_start: bool) -> None:
    net = copy.deepcopy(trained.net).double()
    images, labels = trained.images[:N].double(), trained.labels[:N]
    task = Task(images, labels, Rng(3).rows(torch.arange(N)))
    pgd = PGD(replace(attack, random_start=random_start, clamp_start=clamp_start), net)
    (start,) = pgd.start(task, 0)
    assert torch.equal(start, images) != random_start
    assert torch.equal(start, start.clamp(0, 1)) == (clamp_start or not random_start)
    expected = plain_loop(net, start, images, labels, attack)
    assert (pgd(cross_entropy(net), task) - expected).abs().max() < 1e-9


@each_attack
@pytest.mark.parametrize(("steps", "share"), [(1, 1.25), (2, 0.625), (5, 0.25), (7, 0.25)])
def test_a_step_is_a_quarter_of_eps_unless_few_steps_have_to_go_further(
    trained, attack: Attack, steps: int, share: float
) -> None:
    unsaid = replace(attack, steps=steps, step_size=None, random_start=False)
    said = replace(unsaid, step_size=share * attack.eps)
    task = trained.task(N)
    assert torch.equal(PGD(unsaid, trained.net)(trained.loss, task), PGD(said, trained.net)(trained.loss, task))


def test_fgsm_is_one_step(trained) -> None:
    eps, task = 0.07, trained.task(N)
    x = task.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(trained.net(x), task.targets), x)
    expected = (task.inputs + eps * gradient.sign()).clamp(0, 1)
    found = PGD(Attack(eps=eps, step_size=eps, steps=1, random_start=False), trained.net)(trained.loss, task)
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_several_inputs_are_each_attacked_in_their_own_ball(trained, norm: str) -> None:
    # the loss is the sum of two, so attacking both at once is attacking one at a time
    task = trained.task(N)
    pair = replace(task, inputs=(task.inputs, task.inputs.flip(3)))
    attack = PGD(Attack(norm=norm, eps=0.1, steps=4, random_start=False), trained.net)

    def both(x: Images, task: Task) -> Tensor:
        return trained.loss(x[0], task) + trained.loss(x[1], task)

    together = attack(both, pair)
    assert isinstance(together, tuple)
    for found, clean in zip(together, pair.inputs, strict=True):
        alone = attack(trained.loss, replace(task, inputs=clean))
        assert (found - alone).abs().max() < 1e-5


def test_several_inputs_start_at_different_points(trained) -> None:
    task = trained.task(4)
    attack = PGD(Attack(eps=0.1), trained.net)
    first, second = attack.start(replace(task, inputs=(task.inputs, task.inputs)), 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, attack.start(task, 1)[0])
    assert torch.equal(first, attack.start(task, 0)[0])


def test_an_image_gets_the_same_example_in_whatever_batch_it_comes(trained) -> None:
    # evaluation may be interrupted, sharded or run in batches of another size
    net = copy.deepcopy(trained.net).double()
    task = replace(trained.task(N), inputs=trained.images[:N].double())
    for attack in ATTACKS.values():
        pgd = PGD(attack, net)
        whole = pgd(cross_entropy(net), task)
        for index in (torch.tensor([3]), torch.tensor([9, 2, 11])):
            assert (pgd(cross_entropy(net), task.select(index)) - whole[index]).abs().max() < 1e-9


def test_restarts_keep_the_example_with_the_highest_loss_image_by_image(trained) -> None:
    task = trained.task(64)
    config = Attack(eps=0.15, steps=2, step_size=0.03, restarts=3)
    pgd = PGD(config, trained.net)
    ends = [pgd.ascend(trained.loss, task, pgd.start(task, restart))[0] for restart in range(3)]
    losses = torch.stack([trained.loss(x, task).detach() for x in ends])
    best = losses.argmax(0)
    assert len(best.unique()) == 3
    expected = torch.stack(ends)[best, torch.arange(64)]
    assert torch.equal(pgd(trained.loss, task), expected)


def test_the_loss_before_every_step_is_kept(trained) -> None:
    attack = Attack(eps=0.1, step_size=0.03, steps=5)
    pgd = PGD(attack, trained.net)
    pgd(trained.loss, trained.task(N))
    task = trained.task(N)
    start = PGD(attack, trained.net).start(task, 0)[0]
    for steps, loss in enumerate(pgd.losses):
        x = plain_loop(trained.net, start, task.inputs, task.targets, replace(attack, steps=steps))
        assert loss.item() == pytest.approx(trained.loss(x, task).mean().item(), rel=1e-4)
    assert len(pgd.losses) == 5
    assert not any(loss.requires_grad for loss in pgd.losses)

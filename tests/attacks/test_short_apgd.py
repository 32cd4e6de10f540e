"""A few steps of APGD to train with: what the papers say, image by image, in the ball, on any engine's share of a batch."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss import attacks
from dist_advss.attacks.short_apgd import APGD
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.images import Images
from dist_advss.objectives.base import Task
from dist_advss.rng import Rng

if TYPE_CHECKING:
    from .conftest import Trained

N = 24
RADII = {"linf": 0.1, "l2": 0.8}
each_norm = pytest.mark.parametrize("norm", RADII)


def attack_of(norm: str, steps: int, **more: Any) -> Attack:
    return replace(Attack(norm=norm, eps=RADII[norm], steps=steps, algorithm="apgd", random_start=False), **more)


def doubled(trained: Trained) -> tuple[nn.Module, Task]:
    net = copy.deepcopy(trained.net).double()
    return net, Task(trained.images[:N].double(), trained.labels[:N], Rng(3).rows(torch.arange(N)))


def cross_entropy(net: nn.Module) -> Any:
    return lambda x, task: nn.functional.cross_entropy(net(x), task.targets, reduction="none")


def projected(z: Tensor, centre: Tensor, attack: Attack) -> Tensor:
    delta = z - centre
    if attack.norm == "linf":
        delta = delta.clamp(-attack.eps, attack.eps)
    elif delta.square().sum().sqrt() > attack.eps:
        delta = delta * attack.eps / delta.square().sum().sqrt()
    return (centre + delta).clamp(0, 1)


def by_the_paper(net: nn.Module, centre: Tensor, start: Tensor, label: Tensor, attack: Attack) -> tuple[Tensor, int]:
    """One image, from Croce and Hein 2020, algorithm 1, with a checkpoint after every step (0.22 of 2 to 5 steps is below one).

    Returns the point with the highest loss, and how often the step size was halved.
    """

    def look(x: Tensor) -> tuple[float, Tensor]:
        x = x.detach().requires_grad_()
        loss = -net(x[None]).log_softmax(1)[0, label]
        (gradient,) = torch.autograd.grad(loss, x)
        # Losses are compared in fp32: on a corner of the ball, two iterates are one but for their last bits.
        return (
            loss.float().item(),
            gradient.sign() if attack.norm == "linf" else gradient / gradient.square().sum().sqrt(),
        )

    size, halved = 2 * attack.eps, 0
    loss, way = look(start)
    points, losses, ways = [start], [loss], [way]
    here = 0  # the place in `points` that the search resumes from
    before, x = start, start
    was_halved, best_before = True, losses[0]
    for step in range(attack.steps):
        z = projected(x + size * ways[here], centre, attack)
        share = 1.0 if step == 0 else 0.75
        z = projected(x + share * (z - x) + (1 - share) * (x - before), centre, attack)
        before, x = x, z
        loss, way = look(z)
        rose = loss > (losses[-1] if step else 0.0)
        points, losses, ways = [*points, z], [*losses, loss], [*ways, way]
        best = max(range(len(losses)), key=losses.__getitem__)
        here = len(points) - 1
        if not rose or (not was_halved and best_before >= losses[best]):
            size, halved, here, was_halved = size / 2, halved + 1, best, True
            x = points[best]
        else:
            was_halved = False
        best_before = losses[best]
    return points[max(range(len(losses)), key=losses.__getitem__)], halved


@each_norm
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_it_is_the_search_of_the_paper_image_by_image(trained: Trained, norm: str, steps: int) -> None:
    net, task = doubled(trained)
    attack = attack_of(norm, steps)
    found = APGD(attack, net)(cross_entropy(net), task)
    expected = [by_the_paper(net, x, x, label, attack) for x, label in zip(task.inputs, task.targets, strict=True)]
    assert isinstance(found, Tensor)
    assert (found - torch.stack([x for x, _ in expected])).abs().max() < 1e-7  # step sizes are fp32, as losses are
    if steps > 2:  # both ways of the search were taken
        assert {halved > 0 for _, halved in expected} == {True, False}


@each_norm
def test_a_random_start_is_that_of_pgd_and_restarts_keep_the_highest_loss(trained: Trained, norm: str) -> None:
    net, task = doubled(trained)
    attack = attack_of(norm, 2, random_start=True, restarts=2)
    built = APGD(attack, net)
    starts = [built.start(task, restart)[0] for restart in range(2)]
    assert not torch.equal(*starts)
    ends = []
    for start in starts:
        rows = zip(task.inputs, start, task.targets, strict=True)
        ends.append(torch.stack([by_the_paper(net, x, z, label, attack)[0] for x, z, label in rows]))
    with torch.no_grad():
        losses = torch.stack([cross_entropy(net)(x, task) for x in ends])
    expected = torch.stack(ends)[losses.argmax(0), torch.arange(N)]
    assert (built(cross_entropy(net), task) - expected).abs().max() < 1e-7


@each_norm
def test_an_image_gets_the_same_example_in_whatever_part_of_a_batch_it_comes(trained: Trained, norm: str) -> None:
    net, task = doubled(trained)
    built = APGD(attack_of(norm, 3, random_start=True), net)
    whole = built(cross_entropy(net), task)
    for index in (torch.tensor([3]), torch.arange(12, 24)):
        assert (built(cross_entropy(net), task.select(index)) - whole[index]).abs().max() < 1e-9
    other = replace(task, rng=Rng(4).rows(torch.arange(N)))
    assert not torch.equal(built(cross_entropy(net), other), whole)


@pytest.mark.parametrize(("norm", "steps", "seed"), [*itertools.product(RADII, [1, 2, 3], range(4))])
def test_it_lies_in_ball_and_box_and_no_gradient_spoils_it(norm: str, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = tuple((1.6 * torch.rand(5, 2, 4, 4, generator=generator) - 0.3).clamp(0, 1) for _ in range(2))
    task = Task(clean, torch.zeros(5), Rng(seed).rows(torch.arange(5)))

    def broken(x: Images, task: Task) -> Tensor:
        """Infinite and undefined gradients at some pixels; the loss of the last row is NaN."""
        assert isinstance(x, tuple)
        total = sum(((piece - 0.5).relu().sqrt() / piece + (17 * piece).sin()).flatten(1).sum(1) for piece in x)
        assert isinstance(total, Tensor)
        return total + torch.tensor([0, 0, 0, 0, float("nan")])

    found = APGD(attack_of(norm, steps, random_start=seed % 2 == 0), nn.Identity())(broken, task)
    assert isinstance(found, tuple)
    for x, centre in zip(found, clean, strict=True):
        delta = (x - centre).double().flatten(1)
        length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert not x.requires_grad and x.min() >= 0 and x.max() <= 1
        assert length.max() <= RADII[norm] + 1e-6


def test_of_two_inputs_both_are_from_the_iterate_with_the_highest_loss(trained: Trained) -> None:
    """The loss falls with the distance from a peak, which the first step passes for some rows, and no step reaches for others."""
    net, task = doubled(trained)
    pair = replace(task, inputs=(task.inputs, task.inputs.flip(3)))
    far = torch.linspace(0, 1, N).view(-1, 1, 1, 1)
    peaks = [(piece + 2 * RADII["linf"] * far * (1 - 2 * (piece > 0.5).float())).double() for piece in pair.inputs]
    iterates: list[tuple[Tensor, ...]] = []

    def both(x: Images, task: Task) -> Tensor:
        iterates.append(tuple(piece.detach() for piece in x))
        return -sum(
            ((piece - peak).square().flatten(1).sum(1) for piece, peak in zip(x, peaks, strict=True)), torch.zeros(N)
        )

    found = APGD(attack_of("linf", 3), net)(both, pair)
    with torch.no_grad():
        losses = torch.stack([both(x, pair) for x in [*iterates]])
    best = losses.argmax(0)
    assert len(best.unique()) > 1
    for place, piece in enumerate(found):
        expected = torch.stack([x[place] for x in iterates[:4]])[best, torch.arange(N)]
        assert torch.equal(piece, expected)


@pytest.mark.parametrize(("precision", "seen"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_network_runs_in_half_precision_and_the_images_stay_fp32(
    trained: Trained, precision: str, seen: torch.dtype
) -> None:
    types = []

    def loss(x: Tensor, task: Task) -> Tensor:
        logits = trained.net(x)
        types.append(logits.dtype)
        return nn.functional.cross_entropy(logits.float(), task.targets, reduction="none")

    task = trained.task()
    found = APGD(attack_of("linf", 3, precision=precision), trained.net)(loss, task)
    full = APGD(attack_of("linf", 3), trained.net)(trained.loss, task)
    assert set(types) == {seen} and found.dtype == torch.float32
    accuracy = [trained.correct(x).float().mean() for x in (found, full)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.03


def test_k_steps_are_k_backward_and_one_more_forward_pass_and_the_weights_get_no_gradient(trained: Trained) -> None:
    passes = []

    def loss(x: Tensor, task: Task) -> Tensor:
        passes.append(torch.is_grad_enabled())
        assert not any(p.requires_grad for p in trained.net.parameters())
        return trained.loss(x, task)

    built = APGD(attack_of("l2", 3), trained.net)
    before = [p.requires_grad for p in trained.net.parameters()]
    trained.net.zero_grad()  # of what ran before
    built(loss, trained.task(N))
    assert passes == [True, True, True, False]
    assert len(built.losses) == 3
    assert all(p.grad is None for p in trained.net.parameters())
    assert [p.requires_grad for p in trained.net.parameters()] == before


def test_two_steps_are_stronger_than_pgd_with_two_steps_and_fgsm(trained: Trained) -> None:
    task, kept = trained.task(), {}
    for name, attack in (
        ("apgd2", attack_of("linf", 2)),
        ("pgd2", Attack(eps=RADII["linf"], steps=2)),
        ("fgsm", Attack(eps=RADII["linf"], steps=1)),
    ):
        found = attacks.build(attack, trained.net)(trained.loss, task)
        kept[name] = trained.loss(found, task).mean().item()
    assert kept["apgd2"] > max(kept["pgd2"], kept["fgsm"])


@pytest.mark.parametrize("steps", [2, 3])
def test_the_presets_are_those_of_the_paper(steps: int) -> None:
    found = compose("finetune", [f"attack=apgd{steps}", "out=x"]).attack
    assert found == Attack(algorithm="apgd", steps=steps, random_start=False, batch_norm="eval")
    assert isinstance(attacks.build(found, nn.Identity()), APGD)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("evaluate", ["checkpoint=RUN"], "trains only; evaluate with attack=pgd20"),
        ("transfer", ["sources=[RUN]"], "trains only; transfer with attack=pgd20"),
        ("finetune", ["attack.norm=l1"], "APGD knows linf and l2"),
        ("finetune", ["attack.noise=2"], r"not with attack\.algorithm=apgd"),
        ("finetune", ["attack.eot=2"], "only attack=autoattack averages"),
    ],
)
def test_what_it_is_not_for_is_refused_in_one_line(command: str, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compose(command, ["out=x", "attack=apgd2", *words])

"""keep=any: an image has fallen at the first iterate, of any restart, that is judged wrong."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

N = 48
CONFIG = Attack(eps=0.3, steps=4, step_size=0.012, restarts=3, keep="any")  # short ways from very different starts


@dataclass
class Fall:
    """What the plain loop found for one image: where (None: it stands), and the image to return."""

    at: tuple[int, int] | str | None
    image: Tensor


def exact(trained) -> nn.Module:
    """The network in float64, so that an image alone and in a batch are judged alike."""
    return copy.deepcopy(trained.net).double()


def task_of(trained, n: int = N) -> Task:
    return Task(trained.images[:n].double(), trained.labels[:n], Rng(0, "evaluation").rows(torch.arange(n)))


def judge_with(net: nn.Module):
    def judge(x: Tensor, task: Task) -> Judgement:
        logits = net(x)
        loss = nn.functional.cross_entropy(logits, task.targets, reduction="none")
        return Judgement(loss, (logits.argmax(1) == task.targets).float())

    return judge


def one_by_one(net: nn.Module, task: Task, pgd: PGD) -> list[Fall]:
    """Every image alone through every restart and iterate, l-inf written out."""
    starts = [pgd.start(task, restart)[0] for restart in range(pgd.config.restarts)]
    falls = []
    for row, (clean, label) in enumerate(zip(task.inputs, task.targets, strict=True)):
        falls.append(follow(net, clean, label, [start[row] for start in starts], pgd))
    return falls


def follow(net: nn.Module, clean: Tensor, label: Tensor, starts: list[Tensor], pgd: PGD) -> Fall:
    if net(clean[None]).argmax() != label:
        return Fall("clean", clean)
    eps = pgd.config.eps
    for restart, x in enumerate(starts):
        for step in range(pgd.config.steps + 1):
            x = x.detach().requires_grad_()
            logits = net(x[None])
            if logits.argmax() != label:
                return Fall((restart, step), x.detach())
            if step < pgd.config.steps:
                (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, label[None]), x)
                moved = x.detach() + pgd.step_size * gradient.sign()
                x = torch.minimum(torch.maximum(moved, clean - eps), clean + eps).clamp(0, 1)
    return Fall(None, x.detach())


def test_every_image_falls_where_a_loop_over_images_and_iterates_says(trained) -> None:
    net, task = exact(trained), task_of(trained)
    pgd = PGD(CONFIG, net)
    falls = one_by_one(net, task, pgd)
    found = pgd.until_fooled(judge_with(net), task)
    for row, fall in enumerate(falls):
        assert (found[row] - fall.image).abs().max() < 1e-9, f"row {row} fell at {fall.at}"
    # the test means something: images of every kind are in it
    at = [fall.at for fall in falls]
    assert "clean" in at
    assert None in at
    restarts, steps = ({fall[i] for fall in at if isinstance(fall, tuple)} for i in (0, 1))
    assert len(restarts) > 1
    assert len(steps) > 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_it_is_never_better_for_the_model_than_the_last_iterate(trained, norm: str, restarts: int) -> None:
    eps = {"linf": 0.06, "l2": 0.5}[norm]
    pgd = PGD(Attack(norm=norm, eps=eps, steps=5, step_size=eps, restarts=restarts), trained.net)
    task = trained.task()
    last = trained.correct(pgd(trained.loss, task))
    anywhere = trained.correct(pgd.until_fooled(trained.judge, task))
    assert not (anywhere & ~last).any()


def test_an_iterate_on_the_way_counts_even_if_the_last_one_is_judged_right() -> None:
    # one pixel that climbs by 0.02 a step and is misjudged between 0.53 and 0.55 only
    task = Task(torch.tensor([[0.5], [0.7]]), torch.zeros(2), Rng(0).rows(torch.arange(2)))

    def judge(x: Tensor, task: Task) -> Judgement:
        return Judgement(x.sum(1), ((x < 0.53) | (x > 0.55)).all(1).float())

    pgd = PGD(Attack(eps=0.1, steps=5, step_size=0.02, random_start=False), nn.Identity())
    assert torch.allclose(pgd(lambda x, t: judge(x, t).loss, task), torch.tensor([[0.6], [0.8]]))
    assert torch.allclose(pgd.until_fooled(judge, task), torch.tensor([[0.54], [0.8]]))


def test_more_steps_and_restarts_only_fell_more_images(trained) -> None:
    task = trained.task()
    stand = {}
    for steps, restarts in ((3, 1), (8, 1), (8, 2), (8, 4)):
        pgd = PGD(Attack(eps=0.06, steps=steps, step_size=0.015, restarts=restarts), trained.net)
        stand[steps, restarts] = trained.correct(pgd.until_fooled(trained.judge, task))
    order = list(stand.values())
    for fewer, more in itertools.pairwise(order):
        assert not (more & ~fewer).any()
    assert order[-1].sum() < order[0].sum()


def test_an_image_leaves_the_batch_once_it_has_fallen(trained) -> None:
    sizes = []

    def judge(x: Tensor, task: Task) -> Judgement:
        sizes.append(len(x))
        assert len(task.targets) == len(task.rng.uniform("x")) == len(x)
        return trained.judge(x, task)

    pgd = PGD(Attack(eps=0.15, steps=20, restarts=5), trained.net)
    found = pgd.until_fooled(judge, trained.task(64))
    assert not trained.correct(found).any()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 64
    assert len(sizes) < 1 + 5 * 21  # nobody was left long before the end
    assert sizes[-1] < 64


def test_images_that_are_judged_wrong_already_are_left_alone(trained) -> None:
    task = trained.task()
    wrong = ~trained.correct(task.inputs)
    assert wrong.any()
    found = PGD(CONFIG, trained.net).until_fooled(trained.judge, task)
    assert torch.equal(found[wrong], task.inputs[wrong])
    nobody = task.select(wrong)
    assert torch.equal(PGD(CONFIG, trained.net).until_fooled(trained.judge, nobody), nobody.inputs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_a_fall_counts_only_where_fp32_agrees(trained, precision: str) -> None:
    # a judge that is right about everything in fp32 and about nothing under autocast
    looks = []

    def judge(x: Tensor, task: Task) -> Judgement:
        half = torch.is_autocast_enabled("cpu")
        looks.append(half)
        correct = torch.zeros(len(x)) if half else torch.ones(len(x))
        return Judgement(trained.loss(x, task), correct)

    task = trained.task(8)
    pgd = PGD(Attack(eps=0.05, steps=3, precision=precision, random_start=False), trained.net)
    found = pgd.until_fooled(judge, task)
    assert looks.count(True) == 1 + 4  # the clean images and every iterate, all the way to the end
    assert ((found - task.inputs).abs() > 0.02).any(dim=(1, 2, 3)).all()


def test_half_precision_never_reports_a_fall_that_fp32_does_not_see(trained) -> None:
    # images on the decision boundary: bf16 rounding alone flips many of their verdicts
    boundary = PGD(Attack(eps=0.2, steps=40, step_size=0.002), trained.net).until_fooled(trained.judge, trained.task())
    labels = trained.net(boundary).argmax(1)
    task = Task(boundary, labels, trained.task().rng)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert (trained.net(boundary).argmax(1) != labels).sum() > 5
    full, half = (
        PGD(Attack(eps=0.002, steps=5, precision=p), trained.net).until_fooled(trained.judge, task)
        for p in ("fp32", "bf16")
    )
    stands_full, stands_half = ((trained.net(x).argmax(1) == labels).sum() for x in (full, half))
    assert stands_half <= stands_full + 2  # 33 more if bf16 alone decided when to stop

"""Free adversarial training: m updates on a batch, each of whose backward passes also moves the images for the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_advss import attacks, engines
from dist_advss.attacks.free import Free
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.images import Images, alone
from dist_advss.objectives.base import Judgement, Objective, Task, cross_entropy
from dist_advss.rng import Rng

N, CLASSES, LR, EPS = 6, 3, 0.5, 0.1


class Linear(Objective):
    """A linear classifier in float64."""

    clean_weight = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Flatten()
        self.top = nn.Linear(2 * 3 * 3, CLASSES, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.top.weight.copy_(torch.randn(CLASSES, 18, generator=torch.Generator().manual_seed(1)))

    def judge(self, x: Images, task: Task) -> Judgement:
        return cross_entropy(self.top(self.encoder(alone(x))), task.targets)


def task_of(n: int = N) -> Task:
    images = torch.rand(N, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = (1.4 * images - 0.2).clamp(0, 1)[:n]
    return Task(images, torch.arange(n) % CLASSES, Rng(5).at(0, 0).rows(torch.arange(n)))


def engine_of(*words: str) -> Any:
    plain = ["schedule.momentum=0", "schedule.weight_decay=0", "schedule.optimizer=sgd"]
    config = compose("finetune", [*plain, *words, "train.batch_size=6", "out=x"])
    engine = engines.build(config, Linear(), engines.World(torch.device("cpu")))
    engine.set_lr(LR)
    return engine


def updates(engine: Any, attack: Attack, task: Task, perturbed: bool = False) -> list[tuple[Tensor, Tensor]]:
    """The images of each update and the weights after it."""
    found = []
    for x_adv in attacks.build(attack, engine.module).examples(engine.module.attack_loss, task):
        if perturbed:
            engine.perturb(task, x_adv)
        engine.step(engine(task, x_adv).loss)
        found.append((x_adv.detach().clone(), engine.module.top.weight.detach().clone()))
    return found


def by_hand(start: np.ndarray, clean: np.ndarray, labels: np.ndarray, weights: np.ndarray, norm: str, m: int) -> Any:
    """Algorithm 1 of Shafahi et al. 2019 on a softmax regression, gradients written out; x + delta within [0,1]."""
    x, w = start.copy(), weights.copy()
    for _ in range(m):
        scores = np.exp(x @ w.T)
        wrong = scores / scores.sum(1, keepdims=True) - np.eye(CLASSES)[labels]  # d loss / d logits, of each image
        to_images, to_weights = wrong @ w, wrong.T @ x / len(x)
        yield x, (w := w - LR * to_weights)
        if norm == "linf":
            delta = np.clip(x + EPS * np.sign(to_images) - clean, -EPS, EPS)
        else:
            delta = x + EPS * to_images / np.linalg.norm(to_images, axis=1, keepdims=True) - clean
            delta = delta * np.minimum(1, EPS / np.linalg.norm(delta, axis=1, keepdims=True))
        x = np.clip(clean + delta, 0, 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_every_replay_moves_weights_and_images_as_the_paper_does(norm: str, random_start: bool) -> None:
    attack = Attack(norm=norm, eps=EPS, steps=4, algorithm="free", random_start=random_start)
    engine, task = engine_of(), task_of()
    weights = engine.module.top.weight.detach().numpy().copy()
    clean = alone(task.inputs).flatten(1).numpy()
    start = Free(attack, engine.module).start(task, 0)[0].flatten(1).numpy()
    expected = [*by_hand(start, clean, task.targets.numpy(), weights, norm, 4)]
    found = updates(engine, attack, task)
    assert len(found) == 4
    for (x_adv, after), (x, w) in zip(found, expected, strict=True):
        assert np.abs(x_adv.flatten(1).numpy() - x).max() < 1e-12
        assert np.abs(after.numpy() - w).max() < 1e-12
    assert np.abs(expected[-1][0] - clean).max() > 0.02


def test_the_gradient_is_that_of_the_update_whatever_backward_pass_came_before() -> None:
    """AWP looks for its perturbation in a pass of its own, and some engines run it backward through the images."""
    attack = Attack(eps=EPS, steps=3, algorithm="free")
    one, two = engine_of(), engine_of()
    expected = updates(one, attack, task_of())
    for place, x_adv in enumerate(Free(attack, two.module).examples(two.module.attack_loss, task_of())):
        (-5 * two.module(task_of(), x_adv).loss).backward()
        two.step(two(task_of(), x_adv).loss)
        assert torch.equal(x_adv, expected[place][0])
        assert torch.equal(two.module.top.weight, expected[place][1])


def test_with_perturbed_weights_the_images_follow_the_loss_at_the_perturbed_weights() -> None:
    attack = Attack(eps=EPS, steps=2, algorithm="free", random_start=False, norm="l2")
    engine, task = engine_of("train.awp=0.3"), task_of()
    w = engine.module.top.weight.detach().clone()
    (first, _), (second, _) = updates(engine, attack, task, perturbed=True)
    x = first.flatten(1)

    def gradient(w: Tensor, of: str) -> Tensor:
        wrong = (x @ w.T).softmax(1) - nn.functional.one_hot(task.targets, CLASSES)
        return wrong @ w if of == "images" else wrong.T @ x / N

    slope = gradient(w, "weights")
    at = w + 0.3 * w.norm() * slope / slope.norm()
    way = gradient(at, "images")
    expected = (x + EPS * way / way.norm(dim=1, keepdim=True)).clamp(0, 1)
    assert torch.allclose(second.flatten(1), expected, rtol=0, atol=1e-9)


def test_an_image_has_the_same_start_in_whatever_part_of_a_batch_it_comes() -> None:
    attack, module = Attack(eps=EPS, steps=2, algorithm="free"), Linear()
    whole = next(Free(attack, module).examples(module.attack_loss, task_of()))
    part = next(Free(attack, module).examples(module.attack_loss, task_of().select(torch.tensor([4, 1]))))
    assert torch.equal(part, whole[[4, 1]])
    other = replace(task_of(), rng=Rng(5).at(0, 1).rows(torch.arange(N)))
    assert not torch.equal(next(Free(attack, module).examples(module.attack_loss, other)), whole)


def test_of_several_inputs_each_is_moved_in_its_own_ball() -> None:
    attack = Attack(eps=EPS, steps=2, algorithm="free", random_start=False)
    clean = tuple(torch.full((2, 1, 2, 2), value) for value in (0.5, 0.95))
    examples = Free(attack, nn.Identity()).examples(lambda x, task: x[0], Task(clean, torch.zeros(2), Rng(0)))
    first, second = next(examples)
    (first.sum() - second.sum()).backward()
    first, second = next(examples)
    assert torch.allclose(first, torch.tensor(0.6)) and torch.allclose(second, torch.tensor(0.85))


def test_the_preset_is_that_of_the_paper() -> None:
    found = compose("finetune", ["attack=free", "out=x"]).attack
    assert found == Attack(algorithm="free", steps=8)
    assert attacks.pgd.step_size(found) == found.eps


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("evaluate", ["checkpoint=RUN"], "attack.algorithm=free: trains only; evaluate with attack=pgd20"),
        ("transfer", ["sources=[RUN]"], "attack.algorithm=free: trains only; transfer with attack=pgd20"),
        ("finetune", ["train.accumulate=2"], "train.accumulate=2: .* set it to 1"),
        (
            "finetune",
            ["engine=deepspeed", "engine.zero=3"],
            "engine.zero=3: .* choose engine=fsdp, or engine.zero=0 to 2",
        ),
        ("finetune", ["attack.restarts=2"], "attack.restarts=2: .* set it to 1"),
        ("finetune", ["attack.precision=bf16"], "no passes of its own; drop it, and set train.precision=bf16"),
        ("finetune", ["attack.batch_norm=eval"], "attack.batch_norm=eval: .* drop it"),
        ("finetune", ["attack.noise=2"], "not with attack.algorithm=free"),
    ],
)
def test_what_it_is_not_for_is_refused_in_one_line(command: str, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compose(command, ["out=x", "attack=free", *words])
    assert len(str(caught.value).splitlines()) == 1

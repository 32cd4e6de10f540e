"""A threat whose variable is not an image: one shift of brightness for each channel of each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD, NoAttack
from dist_advss.config.attack import Attack
from dist_advss.config.objectives import Classify as ClassifyKeys
from dist_advss.data import Batch
from dist_advss.evaluation.by_image import Partial
from dist_advss.evaluation.verdicts import Verdicts, judge_images
from dist_advss.models.backbone import Backbone, Encoder
from dist_advss.objectives.base import Judgement, Task
from dist_advss.objectives.classify import Classify
from dist_advss.rng import Rng

LARGEST = 0.2


class ColourShift:
    """z (N, C, 1, 1), at most LARGEST in size, is added to every pixel of its channel."""

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        shape = (clean.shape[1], 1, 1)
        return clean.new_zeros(len(clean), *shape) if rng is None else rng.uniform(name, shape, -LARGEST, LARGEST)

    def apply(self, clean: Tensor, z: Tensor) -> Tensor:
        return (clean + z).clamp(0, 1)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return z + step_size * gradient.sign()

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        return z.clamp(-LARGEST, LARGEST)


def task_of(n: int = 6) -> Task:
    images = 0.3 + 0.4 * torch.rand(n, 2, 5, 5, generator=torch.Generator().manual_seed(0))  # no shift leaves the box
    return Task(images, torch.zeros(n, dtype=torch.int64), Rng(0).rows(torch.arange(n)))


def contrast(x: Tensor, task: Task) -> Tensor:
    """(N,): grows with the first channel and falls with the second."""
    return (x[:, 0] - x[:, 1]).mean((1, 2))


def pgd(**settings) -> PGD:
    return PGD(Attack(**{"steps": 10, "step_size": 0.05, **settings}), nn.Identity(), threat=ColourShift())


@pytest.mark.parametrize("random_start", [True, False])
def test_the_attack_finds_the_worst_shift(random_start: bool) -> None:
    task = task_of()
    found = pgd(random_start=random_start)(contrast, task)
    worst = torch.tensor([LARGEST, -LARGEST]).view(1, 2, 1, 1).expand_as(task.inputs)
    assert torch.allclose(found - task.inputs, worst, atol=1e-6)


def test_without_steps_and_random_start_nothing_changes() -> None:
    task = task_of()
    assert torch.equal(pgd(steps=0, random_start=False)(contrast, task), task.inputs)


def test_restarts_and_selected_rows_are_shifts_of_their_own_images() -> None:
    task = task_of()
    attack = pgd(steps=1, restarts=3)
    whole = attack(contrast, task)
    index = torch.tensor([4, 1])
    assert torch.allclose(attack(contrast, task.select(index)), whole[index])


def test_an_image_is_left_at_the_first_shift_that_fools() -> None:
    task = task_of()
    before = contrast(task.inputs, task)

    def judge(x: Tensor, part: Task) -> Judgement:
        loss = contrast(x, part)
        limit = before[part.rng.row] + torch.where(part.rng.row < 3, 0.125, 9.0)  # the last three never fall
        return Judgement(loss, (loss < limit).float())

    found = pgd(random_start=False, keep="any").fool(judge, task)
    moved = (found - task.inputs)[:, 0, 0, 0]
    assert torch.allclose(moved, torch.tensor([0.1] * 3 + [LARGEST] * 3), atol=1e-6)  # 2 steps: 0.1 up and 0.1 down


class Brightness(nn.Module):
    """Logits of "dark" and "bright" from the mean of an image."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1) * 40


def test_an_evaluation_takes_any_attack(tmp_path: Path) -> None:
    """Images whose mean is within LARGEST of the threshold fall, and no others."""
    grey = torch.tensor([20, 100, 120, 135, 160, 240], dtype=torch.uint8)
    images = grey.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    rows = torch.arange(len(grey))
    batch = Batch(images, (grey > 127).long(), rows, rows)
    encoder = Encoder(1, same=nn.Identity())
    model = Classify(ClassifyKeys(), Backbone(encoder, lambda outputs: Brightness()), 2)
    attacks = {"shift": PGD(Attack(steps=10, step_size=0.05, keep="any"), model, threat=ColourShift())}
    attacks["none"] = NoAttack()  # type: ignore[assignment]
    found = {
        name: judge_images(
            model, [batch], model, attack, 0, "", Verdicts.empty(), np.empty(0, int), Partial(tmp_path, 0, "")
        )
        for name, attack in attacks.items()
    }
    assert np.array_equal(found["shift"].adversarial_correct, (grey.numpy() < 76) | (grey.numpy() > 179))
    assert found["shift"].clean_correct.all() and found["none"].adversarial_correct.all()

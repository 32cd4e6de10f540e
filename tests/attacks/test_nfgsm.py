"""N-FGSM leaves the ball, by exactly what its formula says; FGSM-RS does not. What is counted stays inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dist_advss import attacks
from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.images import Images
from dist_advss.objectives.base import Task
from dist_advss.rng import Rng

if TYPE_CHECKING:
    from .conftest import Trained

EPS = 0.1


def attack_of(preset: str) -> Any:
    return compose("finetune", [f"attack={preset}", f"attack.eps={EPS}", "out=x"]).attack


def task_of(images: Tensor) -> Task:
    n = len(images)
    return Task(images, torch.zeros(n, dtype=torch.int64), Rng(3).at(0, 0).rows(torch.arange(n)))


def upwards(x: Images, task: Task) -> Tensor:
    """A loss that grows with every pixel."""
    assert isinstance(x, Tensor)
    return x.flatten(1).sum(1)


def test_nfgsm_adds_a_step_of_eps_to_noise_of_twice_eps_and_projects_onto_the_box_alone() -> None:
    clean = torch.full((200, 1, 8, 8), 0.5)
    task = task_of(clean)
    attack = attacks.build(attack_of("nfgsm"), torch.nn.Identity())
    (start,) = attack.start(task, 0)  # type: ignore[attr-defined]
    noise = (start - clean).double().flatten().numpy()
    assert stats.kstest(noise, "uniform", args=(-2 * EPS, 4 * EPS)).pvalue > 1e-4
    x_adv = attack(upwards, task)
    assert torch.allclose(x_adv, start + EPS, rtol=0, atol=1e-6)
    assert 2.9 * EPS < (x_adv - clean).abs().max().item() <= 3 * EPS + 1e-6


@pytest.mark.parametrize("preset", ["nfgsm", "fgsm_rs", "fgsm"])
def test_cheap_attacks_stay_in_the_box(preset: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = (1.6 * torch.rand(16, 3, 6, 6, generator=generator) - 0.3).clamp(0, 1)
    x_adv = attacks.build(attack_of(preset), torch.nn.Identity())(upwards, task_of(images))
    assert isinstance(x_adv, Tensor)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert ((x_adv - images).abs().max() > EPS + 1e-6) == (preset == "nfgsm")


def test_fgsm_rs_moves_a_random_start_by_a_quarter_more_than_eps_and_projects_onto_the_ball() -> None:
    clean = torch.full((50, 1, 8, 8), 0.5)
    attack = attacks.build(attack_of("fgsm_rs"), torch.nn.Identity())
    (start,) = attack.start(task_of(clean), 0)  # type: ignore[attr-defined]
    expected = torch.minimum(start + 1.25 * EPS, clean + EPS)
    assert torch.allclose(attack(upwards, task_of(clean)), expected, rtol=0, atol=1e-6)
    assert attack_of("fgsm_rs") == attack_of("fgsm")


def test_nfgsm_raises_the_loss_of_a_network_more_than_its_noise_does(trained: Trained) -> None:
    attack = attacks.build(attack_of("nfgsm"), trained.net)
    task = trained.task()
    (start,) = attack.start(task, 0)  # type: ignore[attr-defined]
    with torch.no_grad():
        before, after = trained.loss(start, task), trained.loss(attack(trained.loss, task), task)
    assert after.mean() > before.mean() + 0.1


@pytest.mark.parametrize(("command", "words"), [("evaluate", ["checkpoint=RUN"]), ("transfer", ["sources=[RUN]"])])
def test_commands_that_count_images_refuse_those_outside_the_ball(command: str, words: list[str]) -> None:
    with pytest.raises(UserError, match=r"attack\.noise=2: leaves the ball.*attack=pgd20"):
        compose(command, ["out=x", "attack=nfgsm", *words])

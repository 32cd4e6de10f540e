"""NT-Xent against its formula, and which views and batch norms ACL's variants use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss import attacks
from dist_advss.config.compose import compose
from dist_advss.data import training_views
from dist_advss.images import pack
from dist_advss.objectives import SimCLR, Task, build
from dist_advss.objectives.simclr import nt_xent
from tests.objectives.conftest import config_of

ROWS, WIDTH = 8, 6


def points(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(one, dim=1), torch.nn.functional.normalize(two + 0.5 * one, dim=1)


def by_formula(one: Tensor, two: Tensor, temperature: float) -> Tensor:
    """Equation 1 of Chen et al. 2020, anchor by anchor, each against the 2N - 1 others."""
    views = torch.cat([one, two])
    total = []
    for i in range(ROWS):
        terms = []
        for anchor, positive in ((i, i + ROWS), (i + ROWS, i)):
            similarity = [torch.dot(views[anchor], views[k]) / temperature for k in range(2 * ROWS)]
            others = sum(s.exp() for k, s in enumerate(similarity) if k != anchor)
            terms.append(-torch.log(similarity[positive].exp() / others))
        total.append((terms[0] + terms[1]) / 2)
    return torch.stack(total)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_and_its_gradient_are_those_of_the_formula(temperature: float) -> None:
    one, two = (x.requires_grad_() for x in points())
    ours, formula = nt_xent(one, two, temperature).loss, by_formula(one, two, temperature)
    torch.testing.assert_close(ours, formula, rtol=1e-10, atol=1e-10)
    weights = torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    gradients = [torch.autograd.grad((loss * weights).sum(), (one, two)) for loss in (ours, formula)]
    for ours_, formula_ in zip(*gradients, strict=True):
        torch.testing.assert_close(ours_, formula_, rtol=1e-9, atol=1e-10)


def test_at_a_small_temperature_it_neither_overflows_nor_cancels() -> None:
    one, two = points()
    loss = nt_xent(one.float(), two.float(), 0.01).loss
    torch.testing.assert_close(loss.double(), by_formula(one, two, 0.01), rtol=1e-4, atol=1e-4)


def test_a_view_counts_as_right_if_its_nearest_neighbour_is_the_other_view() -> None:
    one = torch.eye(4, dtype=torch.float64)
    assert nt_xent(one, one, 0.5).correct.tolist() == [1, 1, 1, 1]
    assert nt_xent(one, one.roll(1, 0), 0.5).correct.tolist() == [0, 0, 0, 0]


def built(rng: Any, batch: Any, **settings: Any) -> tuple[SimCLR, Task]:
    config = config_of("simclr", projector=8, **settings)
    objective = build(config)
    assert isinstance(objective, SimCLR)
    images, labels = batch(ROWS)
    views = training_views((images * 255).to(torch.uint8), rng(ROWS), config.objective, 1)
    return objective, objective.prepare(views, labels, rng(ROWS))


@pytest.mark.parametrize("attack", ["pgd3", "apgd2"])
def test_the_attack_of_a2s_moves_the_first_view_and_leaves_the_second(rng: Any, batch: Any, attack: str) -> None:
    objective, task = built(rng, batch, pairs="a2s")
    keys = replace(compose("pretrain", [f"attack={attack}", "out=x"]).attack, eps=0.1, random_start=False)
    x_adv = attacks.build(keys, objective, couples_rows=True)(objective.attack_loss, task)
    assert isinstance(x_adv, tuple)
    one, two = task.inputs
    assert (x_adv[0] - one).abs().max() > 0.05 and torch.equal(x_adv[1], two)
    assert objective.attack_loss(x_adv, task).sum() > objective.attack_loss(task.inputs, task).sum()


def test_half_precision_does_not_round_the_similarities_of_close_points() -> None:
    generator = torch.Generator().manual_seed(3)
    shared, own = torch.randn(1, 64, generator=generator), torch.randn(64, 64, generator=generator)
    points = shared + 0.05 * own
    one, two = (nn.functional.normalize(points + 0.02 * torch.randn(64, 64, generator=generator)) for _ in range(2))
    full = nt_xent(one, two, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        half = nt_xent(one, two, 0.5)
    assert torch.equal(full.loss, half.loss) and torch.equal(full.correct, half.correct)


def test_acl_s_variants_meet_the_views_that_they_name(rng: Any, batch: Any) -> None:
    losses = {}
    for pairs in ("ds", "a2a", "a2s"):
        objective, task = built(rng, batch, pairs=pairs)
        objective.eval()
        one, two = (objective.project(x) for x in pack(task.inputs))
        x_adv = tuple((x + 0.1).clamp(0, 1) for x in task.inputs)
        one_adv, two_adv = (objective.project(x) for x in x_adv)
        clean, adversarial, mixed = (
            nt_xent(*pair, 0.5).loss.mean() for pair in ((one, two), (one_adv, two_adv), (one_adv, two))
        )
        expected = {"ds": (clean + adversarial) / 2, "a2a": adversarial, "a2s": mixed}[pairs]
        torch.testing.assert_close(objective(task, x_adv).loss, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(objective(task, None).loss, clean, rtol=1e-5, atol=1e-6)
        attacked = objective.attack_loss(x_adv, task).mean()
        torch.testing.assert_close(attacked, mixed if pairs == "a2s" else adversarial, rtol=1e-5, atol=1e-6)
        losses[pairs] = float(expected.detach())
    assert len(set(losses.values())) == 3


def test_clean_images_move_the_norms_of_clean_images_alone(rng: Any, batch: Any) -> None:
    objective, task = built(rng, batch, dual_norms=True)
    own = {name: value.clone() for name, value in objective.state_dict().items() if "running_mean" in name}
    objective(task, None)
    moved = {
        name for name, value in objective.state_dict().items() if name in own and not torch.equal(own[name], value)
    }
    assert moved and all(name.startswith("clean_norms.") for name in moved)
    own = {name: value.clone() for name, value in objective.state_dict().items() if "running_mean" in name}
    objective.attack_loss(task.inputs, task)
    moved = {
        name for name, value in objective.state_dict().items() if name in own and not torch.equal(own[name], value)
    }
    assert moved and not any(name.startswith("clean_norms.") for name in moved)

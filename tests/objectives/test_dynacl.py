"""DynACL: schedules against the formulas of the paper and its code, and a step with the momentum network against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.objectives import SimCLR as Keys
from dist_advss.data import training_views, views
from dist_advss.objectives import SimCLR, Task, build
from dist_advss.rng import Rng
from tests.objectives.conftest import config_of
from tests.objectives.test_simclr import ROWS, by_formula

DYNACL = {"dual_norms": True, "momentum": 0.9, "anneal_every": 1, "reweight": 2 / 3}


def test_strength_and_weight_are_the_staircases_of_the_published_run() -> None:
    """Epochs count from 1 there. The strength is set anew in epochs 1, 51, 101, …; the weight follows floor(e / 50)."""
    keys, strength = Keys(anneal_every=50, reweight=2 / 3), 1.0
    for e in range(1, 1001):
        if e % 50 == 1:
            strength = 1 - (e - 1) / 1000
        assert keys.strength(e - 1, 1000) == pytest.approx(strength, abs=1e-12)
        assert keys.adversarial_weight(e - 1, 1000) == pytest.approx(min(1 + e // 50 * 50 / 1000 * 2 / 3, 2), abs=1e-12)
    assert keys.strength(999, 1000) == pytest.approx(0.05)
    assert Keys(anneal_every=50, reweight=3.0).adversarial_weight(999, 1000) == 2


def pixels(n: int, side: int) -> Tensor:
    return (torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)


def test_views_weaken_every_so_many_epochs_and_not_at_all_without_the_key() -> None:
    images, rng = pixels(8, 16), Rng(0).rows(torch.arange(8))
    for epoch in range(6):
        drawn = rng.at(epoch, 3)
        plain = training_views(images, drawn, Keys(), 6)
        annealed = training_views(images, drawn, Keys(anneal_every=2), 6)
        same = [torch.equal(a, b) for a, b in zip(plain, annealed, strict=True)]
        assert same == [epoch < 2] * 2


def test_half_the_strength_is_half_of_each_change_and_of_each_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 3000
    images, drawn = pixels(n, 8), Rng(0).at(1, 0).rows(torch.arange(n))  # the second of two epochs

    def half(**keys: Any) -> Tensor:
        return training_views(images, drawn, Keys(flip=False, anneal_every=1, **keys), 2)[0]

    cropped = training_views(images, drawn, Keys(flip=False, crop_area=0.55, jitter=0, grey=0), 2)[0]
    torch.testing.assert_close(half(jitter=0, grey=0), cropped, rtol=0, atol=1e-5)
    monkeypatch.setattr(views, "RATIO", 0.0)  # otherwise the largest crop is not square
    for keys, share in (({"grey": 0.4, "jitter": 0}, 0.2), ({"grey": 0, "jitter": 0.4}, 0.4)):
        changed = (half(crop_area=1.0, **keys) - images / 255).abs().amax((1, 2, 3)) > 1e-4
        assert abs(float(changed.float().mean()) - share) < 0.03  # three standard deviations are 0.027


def built(batch: Any, epoch: int = 0, epochs: int = 1, **settings: Any) -> tuple[SimCLR, Task, tuple[Tensor, ...]]:
    """In float64 and eval mode, with networks that differ from each other, and an adversarial guess at the views."""
    config = config_of("simclr", projector=8, **settings)
    config.schedule.epochs = epochs
    objective = build(config)
    assert isinstance(objective, SimCLR)
    objective.double().eval()
    generator = torch.Generator().manual_seed(1)
    for p in objective.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    inputs = tuple(batch(ROWS, torch.float64, seed)[0] for seed in (0, 1))
    rng = Rng(0).at(epoch, 0).rows(torch.arange(ROWS))
    found = tuple((x + 0.05).clamp(0, 1) for x in inputs)
    return objective, objective.prepare(inputs, rng.row, rng), found


def points(encoder: nn.Module, projector: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.normalize(projector(encoder(x)), dim=1)


@pytest.mark.parametrize(("epoch", "weight"), [(0, 1 + 2 / 9), (1, 1 + 4 / 9), (2, 1 + 2 / 3)])
def test_a_step_is_that_of_the_formula(batch: Any, epoch: int, weight: float) -> None:
    """View 1 through the network that learns, view 2 through its average; ((2 - w) clean + w adversarial) / 2."""
    objective, task, x_adv = built(batch, epoch, 3, momentum=0.9, anneal_every=1, reweight=2 / 3)
    assert objective.online is not None
    encoder, projector, _ = objective.online
    clean, adversarial = (
        by_formula(points(encoder, projector, one), points(objective.encoder, objective.projector, two), 0.5).mean()
        for one, two in (task.inputs, x_adv)
    )
    expected = ((2 - weight) * clean + weight * adversarial) / 2
    ours = objective(task, x_adv).loss
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)
    learned = [p for p in objective.parameters() if p.requires_grad]
    assert {id(p) for p in learned} == {id(p) for p in objective.online.parameters()}
    for a, b in zip(torch.autograd.grad(ours, learned), torch.autograd.grad(expected, learned), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_the_attack_goes_through_both_networks_and_the_verdict_through_the_average(batch: Any) -> None:
    objective, task, x_adv = built(batch, **DYNACL)
    assert objective.online is not None
    leaves = tuple(x.clone().requires_grad_() for x in x_adv)
    encoder, projector, _ = objective.online
    one, two = points(encoder, projector, leaves[0]), points(objective.encoder, objective.projector, leaves[1])
    losses = objective.attack_loss(leaves, task), by_formula(one, two, 0.5)
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(loss.sum(), leaves) for loss in losses), strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    verdict = objective.judge(x_adv, task).loss
    one, two = (points(objective.encoder, objective.projector, x) for x in x_adv)
    torch.testing.assert_close(verdict, by_formula(one, two, 0.5), rtol=1e-6, atol=1e-9)


def test_the_average_moves_with_an_update_and_with_nothing_else(batch: Any) -> None:
    objective, task, _ = built(batch, **DYNACL)
    assert objective.online is not None
    objective.train()
    own = nn.ModuleList([objective.encoder, objective.projector, objective.clean_norms])
    before = [p.clone() for p in own.parameters()]
    x_adv = PGD(Attack(eps=0.1, steps=2), objective, couples_rows=True)(objective.attack_loss, task)
    objective(task, x_adv).loss.backward()
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(own.parameters(), before, strict=True))
    statistics = [b.clone() for b in own.buffers()]
    online = list(objective.online.parameters())
    objective.after_update()
    for p, b, learned in zip(own.parameters(), before, online, strict=True):
        torch.testing.assert_close(p.detach(), 0.9 * b + 0.1 * learned.detach(), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(own.buffers(), statistics, strict=True))  # of second views alone


def test_the_networks_begin_as_one_and_what_is_loaded_reaches_all_of_them(batch: Any) -> None:
    objective = build(config_of("simclr", projector=8, **DYNACL))
    assert isinstance(objective, SimCLR) and objective.online is not None

    def differences() -> float:
        own = nn.ModuleList([objective.encoder, objective.projector, objective.clean_norms]).state_dict()
        theirs = objective.online.state_dict()
        assert own.keys() == theirs.keys()
        return max(float((own[name].double() - theirs[name]).abs().max()) for name in own)

    assert differences() == 0
    other = build(config_of("rotation", seed=1))
    for buffer in other.encoder.buffers():
        if buffer.is_floating_point():
            buffer += 1
    objective.encoder.load_state_dict(other.encoder.state_dict())
    assert differences() > 0
    objective.after_transfer()
    assert differences() == 0
    norms = objective.clean_norms[0].norms
    loaded = [m for m in other.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms, loaded, strict=True))


def test_without_the_keys_nothing_is_added_and_the_loss_is_half_of_each(rng: Any, batch: Any) -> None:
    objective, task, x_adv = built(batch)
    assert not any(name.startswith(("online.", "clean_norms.")) for name in objective.state_dict())
    outcome = objective(task, x_adv)
    assert outcome.clean is not None and outcome.adversarial is not None
    assert torch.equal(outcome.loss, (outcome.clean.loss.mean() + outcome.adversarial.loss.mean()) / 2)

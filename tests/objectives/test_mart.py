"""MART and label smoothing in float64, against the formulas image by image."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from dist_advss.objectives import Objective, Task

N = 6


def logits(objective: Objective, x: Tensor) -> list[list[Tensor]]:
    return [list(row) for row in objective.get_submodule("top")(objective.encoder(x))]


def probabilities(row: list[Tensor]) -> list[Tensor]:
    total = sum((z.exp() for z in row), start=torch.zeros((), dtype=torch.float64))
    return [z.exp() / total for z in row]


def smoothed(q: list[Tensor], y: int, share: float) -> Tensor:
    """-sum_k t_k log q_k where the label's t is 1 - share + share/K and the others' share/K."""
    zero = torch.zeros((), dtype=torch.float64)
    return sum(
        (-((1 - share) * (k == y) + share / len(q)) * value.log() for k, value in enumerate(q)),
        start=zero,
    )


def mart_by_hand(objective: Objective, x: Tensor, x_adv: Tensor, labels: Tensor, weight: float, share: float) -> Tensor:
    losses = []
    for clean, adversarial, y in zip(logits(objective, x), logits(objective, x_adv), labels.tolist(), strict=True):
        p, q = probabilities(clean), probabilities(adversarial)
        wrong = max((value for k, value in enumerate(q) if k != y), key=lambda value: value.item())
        kl = sum((a * (a / b).log() for a, b in zip(p, q, strict=True)), start=torch.zeros((), dtype=torch.float64))
        losses.append(smoothed(q, y, share) - (1.0001 - wrong).log() + weight * kl * (1 - p[y]))
    return torch.stack(losses).mean()


def lively(objective: Objective) -> Objective:
    """In float64, with logits so far apart that the answers are neither sure nor even."""
    objective = objective.double()
    with torch.no_grad():
        objective.get_parameter("top.linear.weight").mul_(10)
    return objective


def setting(make, rng, batch, name: str, **keys) -> tuple[Objective, Objective, Task, Tensor]:
    objective = lively(make(name, **keys)).train()
    images, labels = batch(N, torch.float64)
    x_adv = (images + 0.1 * torch.sin(37 * images)).clamp(0, 1)
    return objective, copy.deepcopy(objective), objective.prepare(images, labels, rng(N)), x_adv


def assert_same(objective: Objective, loss: Tensor, twin: Objective, expected: Tensor) -> None:
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for (name, ours), theirs in zip(objective.named_parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        assert (ours.grad - theirs.grad).abs().max() <= 1e-6 * theirs.grad.abs().max() + 1e-12, name


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_mart_has_the_loss_and_the_gradients_of_its_formula(make, rng, batch, share: float) -> None:
    objective, twin, task, x_adv = setting(make, rng, batch, "mart", weight=4.0, label_smoothing=share)
    expected = mart_by_hand(twin, task.inputs, x_adv, task.targets, 4.0, share)  # type: ignore[arg-type]
    assert_same(objective, objective(task, x_adv).loss, twin, expected)


def test_mart_is_finite_where_the_network_is_sure_of_a_wrong_class(make, rng, batch) -> None:
    objective, _, task, x_adv = setting(make, rng, batch, "mart")
    objective = objective.float()
    with torch.no_grad():
        objective.get_parameter("top.linear.weight").mul_(1e4)
    task.inputs = task.inputs.float()  # type: ignore[union-attr]
    loss = objective(task, x_adv.float()).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def test_mart_attacks_the_cross_entropy_and_reports_it_for_both_kinds_of_images(make, rng, batch) -> None:
    mart, _, task, x_adv = setting(make, rng, batch, "mart", label_smoothing=0.3)
    classify = lively(make("classify")).train()
    classify.load_state_dict(mart.state_dict())
    assert torch.equal(mart.attack_loss(x_adv, task), classify.attack_loss(x_adv, task))
    outcome = mart(task, x_adv)
    assert torch.allclose(outcome.adversarial.loss, classify.judge(x_adv, task).loss, rtol=1e-12)
    assert torch.allclose(outcome.clean.loss, classify.judge(task.inputs, task).loss, rtol=1e-12)


@pytest.mark.parametrize("attacked", [True, False])
def test_smoothed_classification_has_the_loss_and_the_gradients_of_its_formula(make, rng, batch, attacked) -> None:
    objective, twin, task, x_adv = setting(make, rng, batch, "classify", label_smoothing=0.4)
    seen = x_adv if attacked else task.inputs
    rows = zip(logits(twin, seen), task.targets.tolist(), strict=True)  # type: ignore[arg-type]
    expected = torch.stack([smoothed(probabilities(row), y, 0.4) for row, y in rows]).mean()
    outcome = objective(task, x_adv if attacked else None)
    judged = outcome.adversarial if attacked else outcome.clean
    assert torch.allclose(judged.loss, objective.judge(seen, task).loss, rtol=1e-12)  # what is logged is not smoothed
    assert_same(objective, outcome.loss, twin, expected)


def test_trades_smooths_its_cross_entropy_and_not_its_divergence(make, rng, batch) -> None:
    smooth, _, task, x_adv = setting(make, rng, batch, "trades", label_smoothing=0.4)
    plain = lively(make("trades")).train()
    plain.load_state_dict(smooth.state_dict())
    rows = zip(logits(plain, task.inputs), task.targets.tolist(), strict=True)  # type: ignore[arg-type]
    difference = [smoothed(probabilities(row), y, 0.4) - smoothed(probabilities(row), y, 0) for row, y in rows]
    extra = torch.stack(difference).mean().item()
    assert abs(extra) > 1e-3
    task.by_row.clear()
    assert (smooth(task, x_adv).loss - plain(task, x_adv).loss).item() == pytest.approx(extra, rel=1e-9)


@pytest.mark.parametrize("name", ["classify", "trades", "mart"])
def test_label_smoothing_does_not_change_the_loss_of_the_attack(make, rng, batch, name: str) -> None:
    smooth, _, task, x_adv = setting(make, rng, batch, name, label_smoothing=0.4)
    plain = lively(make(name)).train()
    plain.load_state_dict(smooth.state_dict())
    found = smooth.attack_loss(x_adv, task)
    task.by_row.clear()
    assert torch.equal(found, plain.attack_loss(x_adv, task))

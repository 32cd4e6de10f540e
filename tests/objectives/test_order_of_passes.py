"""`objective.first`: which pass moves the running statistics of batch norm first, against averages computed here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.config.objectives import SelfieKeys
from dist_advss.images import pack
from dist_advss.objectives import Objective, Task

N = 6
SMALL = SelfieKeys(layers=1, heads=2, ffn=16)
SETTINGS: dict[str, dict[str, Any]] = {"joint": {"selfie": SMALL}}
PUBLISHED = [
    "jigsaw clean",
    "jigsaw adversarial",
    "rotation adversarial",
    "rotation clean",
    "selfie clean",
    "selfie adversarial",
]


def first_norm(objective: Objective) -> nn.BatchNorm2d:
    return next(module for module in objective.encoder.modules() if isinstance(module, nn.BatchNorm2d))


def batch_mean(objective: Objective, judge: Any) -> Tensor:
    """The mean that the first batch norm of a copy of the objective sees of one pass."""
    twin = copy.deepcopy(objective)
    seen: list[Tensor] = []
    first_norm(twin).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().mean((0, 2, 3))))
    judge(twin)
    assert len(seen) == 1
    return seen[0]


def moved(start: Tensor, means: list[Tensor]) -> Tensor:
    """Exponential averages as batch norm keeps them, momentum 0.1."""
    for mean in means:
        start = 0.9 * start + 0.1 * mean
    return start


def setting(make: Any, rng: Any, batch: Any, name: str, first: str) -> tuple[Objective, Task, Any]:
    objective = make(name, first=first, **SETTINGS.get(name, {})).double().train()
    task = objective.prepare(*batch(N, torch.float64), rng(N))
    x_adv = tuple((x + 0.3).clamp(0, 1) for x in pack(task.inputs))
    return objective, task, x_adv if isinstance(task.inputs, tuple) else x_adv[0]


@pytest.mark.parametrize("first", ["adversarial", "clean"])
@pytest.mark.parametrize("name", ["rotation", "jigsaw", "selfie", "trades", "mart"])
def test_the_later_pass_counts_more_in_the_running_statistics(make, rng, batch, name: str, first: str) -> None:
    objective, task, x_adv = setting(make, rng, batch, name, first)
    means = {
        "clean": batch_mean(objective, lambda twin: twin.judge(task.inputs, task)),
        "adversarial": batch_mean(objective, lambda twin: twin.judge(x_adv, task)),
    }
    before = first_norm(objective).get_buffer("running_mean").clone()
    objective(task, x_adv)
    second = "clean" if first == "adversarial" else "adversarial"
    after = first_norm(objective).get_buffer("running_mean")
    assert torch.allclose(after, moved(before, [means[first], means[second]]), rtol=0, atol=1e-12)
    assert not torch.allclose(after, moved(before, [means[second], means[first]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", ["adversarial", "clean", "published"])
def test_joint_pre_training_runs_its_tasks_in_the_order_that_the_key_names(make, rng, batch, first: str) -> None:
    objective, task, x_adv = setting(make, rng, batch, "joint", first)
    tasks, other = ("selfie", "jigsaw", "rotation"), "clean" if first == "adversarial" else "adversarial"
    order = PUBLISHED if first == "published" else [f"{task} {part}" for part in (first, other) for task in tasks]

    def mean(one: str) -> Tensor:
        name, part = one.split()
        i = tasks.index(name)
        x = (x_adv if part == "adversarial" else task.inputs)[i]
        return batch_mean(objective, lambda twin: twin.heads[name].judge(x, task.parts[i]))  # type: ignore[attr-defined]

    expected = moved(first_norm(objective).get_buffer("running_mean").clone(), [mean(one) for one in order])
    objective(task, x_adv)
    assert torch.allclose(first_norm(objective).get_buffer("running_mean"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rotation", "selfie", "trades", "mart", "joint"])
def test_loss_and_gradients_do_not_depend_on_the_order(make, rng, batch, name: str) -> None:
    found = []
    for first in ("adversarial", "clean", *(["published"] if name == "joint" else [])):
        objective, task, x_adv = setting(make, rng, batch, name, first)
        outcome = objective(task, x_adv)
        outcome.loss.backward()
        gradients = [p.grad for p in objective.parameters() if p.grad is not None]
        found.append((outcome.loss.item(), torch.cat([g.flatten() for g in gradients])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-12)
        assert (gradient - found[0][1]).abs().max() <= 1e-9 * found[0][1].abs().max()

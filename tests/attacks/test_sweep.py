"""A sweep over radii attacks at each radius what the smaller ones left; one over steps looks at one attack several times."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import RadiusSweep, StepSweep, build_sweep
from dist_advss.config.attack import Attack
from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

RADII = [0.02, 0.05, 0.1, 0.2]
PIXELS = 16
PGD = Attack(eps=0.1, steps=12, keep="any")
CASCADE = Attack(eps=0.1, steps=12, algorithm="autoattack", cascade=["pgd-cw", "apgd-ce"])


class Linear(nn.Module):
    """Two classes by the sign of the mean of x - 1/2. A change of eps moves the mean by eps, so an image falls from its margin on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def judge(self, x: Tensor, task: Task) -> Judgement:
        self.asked.append(len(x))
        score = 20 * (x.flatten(1).mean(1) - 0.5)
        logits = torch.stack([-score, score], 1)
        loss = nn.functional.cross_entropy(logits, task.targets, reduction="none")
        return Judgement(loss, (logits.argmax(1) == task.targets).float(), logits)


def pictures(margins: list[float]) -> Task:
    """Images of class 1, with a margin above 0, and of class 0 that the model takes for class 1 where it is below."""
    at = torch.tensor(margins)
    images = 0.5 + at.abs()[:, None].expand(-1, PIXELS).reshape(-1, 1, 4, 4)
    return Task(images.clone(), (at > 0).long(), Rng(0, "evaluation").rows(torch.arange(len(at))))


@pytest.mark.parametrize("config", [PGD, CASCADE], ids=["pgd", "cascade"])
def test_each_image_falls_at_the_first_radius_above_its_margin(config: Attack) -> None:
    model = Linear()
    sweep = build_sweep(config, model, "eps", RADII[::-1])  # in any order
    assert isinstance(sweep, RadiusSweep)
    task = pictures([0.01, 0.03, 0.04, 0.07, 0.15, 0.28, -0.1])
    shown = sweep.fool(model.judge, task)
    assert sweep.felled_at.tolist() == [1, 2, 2, 3, 4, -1, 0]
    assert sweep.felled_by.tolist() == [1, 1, 1, 1, -1, -1, 0]  # within config.eps
    # The images are as at config.eps: within it, and those that fell there or before fool the model.
    assert (shown - task.inputs).abs().max() <= config.eps + 1e-6
    right = model.judge(shown, task).correct.tolist()
    assert right == [0, 0, 0, 0, 1, 1, 0]
    # What fell at a smaller radius lies within that.
    assert (shown[0] - task.inputs[0]).abs().max() <= 0.02 + 1e-6


def test_a_fallen_image_is_attacked_no_more() -> None:
    model = Linear()
    attacked: list[int] = []
    sweep = build_sweep(PGD, model, "eps", RADII)
    assert isinstance(sweep, RadiusSweep)
    for attack in sweep.attacks.values():
        fool = attack.fool
        attack.fool = lambda judge, task, fool=fool: (attacked.append(len(task.targets)), fool(judge, task))[1]  # type: ignore[method-assign]
    sweep.fool(model.judge, pictures([0.01, 0.03, 0.04, 0.07, 0.15, -0.1]))
    assert attacked == [5, 4, 2, 1]
    attacked.clear()
    sweep.fool(model.judge, pictures([0.01, 0.01]))
    assert attacked == [2]  # none is left for the larger radii


def test_the_draws_at_a_radius_are_those_of_the_attack_alone() -> None:
    model, task = Linear(), pictures([0.28, 0.28, 0.27])
    still = Attack(eps=0.1, steps=1, step_size=1e-9, keep="last")  # the random start is what it returns
    alone = build_sweep(still, model, "", []).fool(model.judge, task)
    for radii in ([0.1], RADII):
        torch.testing.assert_close(
            build_sweep(still, model, "eps", radii).fool(model.judge, task), alone, rtol=0, atol=0
        )


STEPPING = Attack(eps=0.5, steps=5, step_size=0.01, keep="any", random_start=False)


def steps_of(config: Attack, model: nn.Module, points: list[float]) -> StepSweep:
    sweep = build_sweep(config, model, "steps", points)
    assert isinstance(sweep, StepSweep)
    return sweep


def test_each_image_falls_at_the_first_number_of_steps_that_cover_its_margin() -> None:
    model = Linear()
    sweep = steps_of(STEPPING, model, [20, 1, 5])  # in any order
    task = pictures([0.005, 0.015, 0.045, 0.055, 0.195, 0.25, -0.1])
    shown = sweep.fool(model.judge, task)
    assert sweep.felled_at.tolist() == [1, 2, 2, 3, 3, -1, 0]
    assert sweep.felled_by.tolist() == [1, 1, 1, -1, -1, -1, 0]  # within config.steps
    # The images are as after config.steps: the first that fools the model, else the last.
    distance = (shown - task.inputs).flatten(1).abs().amax(1)
    torch.testing.assert_close(distance, torch.tensor([0.01, 0.02, 0.05, 0.05, 0.05, 0.05, 0.0]), rtol=0, atol=1e-6)


def test_one_run_is_all_that_a_sweep_over_steps_costs_beside_a_look_at_each_number() -> None:
    model = Linear()
    steps_of(STEPPING, model, [1, 5, 20]).fool(model.judge, pictures([0.4, 0.4, 0.4]))
    # The clean images for the verdict and for the attack, its start and 20 iterates, and one look for each number.
    assert len(model.asked) == 2 + 21 + 3


def test_an_attack_that_ends_early_still_fells_what_it_felled() -> None:
    model = Linear()
    sweep = steps_of(STEPPING, model, [1, 5, 20])
    sweep.fool(model.judge, pictures([0.005, 0.035]))
    assert sweep.felled_at.tolist() == [1, 2]
    sweep.fool(model.judge, pictures([-0.1]))
    assert sweep.felled_at.tolist() == [0]


class Blind(Linear):
    """In half precision it is right about everything, as where rounding hides what is wrong."""

    def judge(self, x: Tensor, task: Task) -> Judgement:
        judged = super().judge(x, task)
        half = torch.is_autocast_enabled("cpu")
        return Judgement(judged.loss, torch.ones_like(judged.correct) if half else judged.correct, judged.logits)


def test_what_half_precision_misses_falls_at_the_number_of_steps_where_fp32_looks() -> None:
    model = Blind()
    sweep = steps_of(replace(STEPPING, precision="bf16"), model, [1, 5, 20])
    sweep.fool(model.judge, pictures([0.005, 0.035, 0.1, 0.25, -0.1]))
    assert sweep.felled_at.tolist() == [1, 2, 3, -1, 0]

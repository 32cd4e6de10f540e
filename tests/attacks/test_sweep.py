"""A sweep over radii attacks at each radius what the smaller ones left, and says at which radius each image fell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import Sweep, build_sweep
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
    sweep = build_sweep(config, model, RADII[::-1])  # in any order
    assert isinstance(sweep, Sweep)
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
    sweep = build_sweep(PGD, model, RADII)
    assert isinstance(sweep, Sweep)
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
    alone = build_sweep(still, model, []).fool(model.judge, task)
    for radii in ([0.1], RADII):
        torch.testing.assert_close(build_sweep(still, model, radii).fool(model.judge, task), alone, rtol=0, atol=0)

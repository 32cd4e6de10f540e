"""The passes of a step count whole batches, however an objective and an engine cut or join them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.objectives import build
from dist_advss.rng import Rng
from dist_advss.training.passes import Passes


def counted(accumulate: int, part: torch.Tensor, *inputs: torch.Tensor, answered: int = 0) -> dict[str, int] | None:
    """The counts of a step in which these went through the encoder, all but the last `answered` of them back too."""
    module: Any = nn.Module()
    encoder = nn.Conv2d(1, 4, 3, padding=1)
    module.encoders = (encoder,)
    engine: Any = SimpleNamespace(module=module, rehearsing=False, accumulate=accumulate)
    passes = Passes(engine)
    for k, x in enumerate(inputs):
        with torch.set_grad_enabled(k < len(inputs) - answered):
            features = encoder(x)
        if features.requires_grad:
            features.sum().backward()
    passes.end_step(part)
    return passes.counts


IMAGES = torch.rand(6, 1, 12, 12)


@pytest.mark.parametrize(
    ("accumulate", "part", "inputs", "expected"),
    [
        (1, IMAGES, [IMAGES], 1),
        (1, IMAGES, [IMAGES, IMAGES, IMAGES], 3),
        (1, IMAGES, [torch.cat([IMAGES, IMAGES])], 2),  # two views, or clean and adversarial images, as one batch
        (1, IMAGES, [torch.rand(6 * 9, 1, 4, 4)], 1),  # all patches of an image
        (1, IMAGES, [torch.rand(6, 1, 10, 10)], 1),  # puzzles that leave out a rim
        (2, IMAGES[:3], [IMAGES[:3], IMAGES[3:]], 1),  # two parts of a batch
    ],
)
def test_a_pass_is_one_of_a_whole_batch(
    accumulate: int, part: torch.Tensor, inputs: list[torch.Tensor], expected: int
) -> None:
    assert counted(accumulate, part, *inputs) == {"forward": expected, "backward": expected}


def test_a_pass_without_a_gradient_is_a_forward_one() -> None:
    assert counted(1, IMAGES, IMAGES, IMAGES, IMAGES, answered=1) == {"forward": 3, "backward": 2}


ANCHOR = ["objective=anchor", "objective.teacher=elsewhere"]
DYNACL = ["objective=dynacl", "objective.projector=8", "schedule.epochs=100"]


@pytest.mark.parametrize(
    ("words", "forward", "backward"),
    [
        # Two attack steps, and clean and adversarial images as one batch; the teacher's pass has no backward one.
        (ANCHOR, 2 + 2 + 1, 2 + 2),
        ([*ANCHOR, "objective.away_from=student"], 2 + 2 + 1 + 1, 2 + 2),  # the student's features before the attack
        ([*ANCHOR, "objective.clean=0", "objective.toward=teacher"], 2 + 1 + 1, 2 + 1),
        # Two attack steps and an update on clean and on adversarial views, with a view in each of two networks. The
        # average is no part of the update's backward pass.
        (DYNACL, 4 + 4, 4 + 2),
        ([*DYNACL, "objective.momentum=0"], 4 + 4, 4 + 4),
    ],
)
def test_the_passes_of_a_teacher_and_of_an_average_are_counted(words: list[str], forward: int, backward: int) -> None:
    config: Any = compose("pretrain", [*words, "model.width=4", "out=RUN"])
    objective = build(config).train()
    images = IMAGES if config.objective.views == 1 else (IMAGES, IMAGES.flip(3))
    engine: Any = SimpleNamespace(module=objective, rehearsing=False, accumulate=1)
    passes = Passes(engine)
    task = objective.prepare(images, torch.arange(6), Rng(0).at(0, 0).rows(torch.arange(6)))
    attack = PGD(Attack(eps=0.1, steps=2), objective, couples_rows=config.objective.couples_rows)
    objective(task, attack(objective.attack_loss, task)).loss.backward()
    passes.end_step(images)
    assert passes.counts == {"forward": forward, "backward": backward}
    objective.prepare(images, torch.arange(6), task.rng)
    assert passes.counts == {"forward": forward, "backward": backward}  # of the first step only

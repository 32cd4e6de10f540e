"""TA and RA on held-out images while training, under a small attack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ..attacks import PGD
from ..config.schema import TrainConfig
from ..data import Batch, as_float
from ..objectives.base import Images, Objective, Task
from ..rng import Rng


@dataclass
class Validation:
    """Rates in percent, mean losses; of the pretext task in pre-training, of the classes in fine-tuning."""

    ta: float
    ra: float
    loss_clean: float
    loss_adversarial: float


def validate(objective: Objective, batches: Iterable[Batch], config: TrainConfig) -> Validation:
    """Judges every image clean and under PGD (validation.steps, the training threat), in eval mode, without augmentation.

    Tasks and random starts are the same at every call, so epochs are compared on the same questions.
    """
    threat = replace(config.attack, steps=config.validation.steps, step_size=None, restarts=1, random_start=True)
    attack = PGD(threat, objective)
    rng = Rng(config.seed, "validation")
    sums = torch.zeros(4, dtype=torch.float64)
    count = 0

    def loss(x: Images, task: Task) -> torch.Tensor:
        return objective.judge(x, task).loss

    objective.eval()
    for number, batch in enumerate(batches):
        task = objective.prepare(as_float(batch.images), batch.labels, rng.at(0, number).rows(batch.row))
        x_adv = attack(loss, task)
        with torch.no_grad():
            clean, adversarial = objective.judge(task.inputs, task), objective.judge(x_adv, task)
        parts = (clean.correct, adversarial.correct, clean.loss, adversarial.loss)
        sums += torch.stack([part.double().sum() for part in parts]).cpu()
        count += len(batch.labels)
    objective.train()
    ta, ra, loss_clean, loss_adversarial = (sums / count).tolist()
    return Validation(round(100 * ta, 4), round(100 * ra, 4), loss_clean, loss_adversarial)

"""TA and RA on held-out images while training, under a small attack."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..attacks import PGD
from ..config.schema import TrainConfig
from ..data import Batch, MemoryLoader, as_float
from ..engines import World
from ..objectives.base import Images, Objective, Task
from ..rng import Rng


@dataclass
class Validation:
    """Rates in percent, mean losses; of the pretext task in pre-training, of the classes in fine-tuning."""

    ta: float
    ra: float
    loss_clean: float
    loss_adversarial: float


def validate(
    objective: Objective, images: MemoryLoader, batch_size: int, config: TrainConfig, world: World
) -> Validation:
    """Judges every image clean and under PGD (validation.steps, the training threat), in eval mode, without augmentation.

    Each process judges its share, `batch_size` images at a time. Tasks and random starts are named by an image's position
    in the set, so every call at every world size asks the same questions; Selfie masks the same patches in all of them.
    """
    threat = replace(config.attack, steps=config.validation.steps, step_size=None, restarts=1, random_start=True)
    attack = PGD(threat, objective)
    rng = Rng(config.seed, "validation")
    sums = torch.zeros(5, dtype=torch.float64)

    def loss(x: Images, task: Task) -> torch.Tensor:
        return objective.judge(x, task).loss

    objective.eval()
    for batch, counts in _in_step(images, batch_size, world):
        task = objective.prepare(as_float(batch.images), batch.labels, rng.rows(batch.row))
        x_adv = attack(loss, task)
        with torch.no_grad():
            clean, adversarial = objective.judge(task.inputs, task), objective.judge(x_adv, task)
        if counts:
            parts = (clean.correct, adversarial.correct, clean.loss, adversarial.loss, torch.ones_like(clean.loss))
            sums += torch.stack([part.double().sum() for part in parts]).cpu()
        world.beat()
    objective.train()
    *means, count = world.sum(sums).tolist()
    ta, ra, loss_clean, loss_adversarial = (mean / count for mean in means)
    return Validation(round(100 * ta, 4), round(100 * ra, 4), loss_clean, loss_adversarial)


def _in_step(images: MemoryLoader, batch_size: int, world: World) -> Iterator[tuple[Batch, bool]]:
    """This process's batches and whether they count: as many in every process, since sharded layers are gathered together.

    A process with fewer looks at its last batch once more, for nothing.
    """
    most = math.ceil(math.ceil(len(images) / world.size) / batch_size)
    done = 0
    for batch in images.in_order(batch_size):
        yield batch, True
        done += 1
    for _ in range(done, most):
        yield batch, False

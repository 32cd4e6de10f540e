"""AutoAttack (Croce and Hein, ICML 2020): a cascade of attacks, each on the images that the ones before could not fool.

The verdict on an image depends on the weights, the image, its position and the seed. The batch size, the number of processes, the
order of the images and an interruption do not matter: draws are named by attack, target and row, and all work is done in
chunks of one constant shape (see chunks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ..config.attack import TARGETED
from ..config.attack import Attack as AttackConfig
from ..images import alone
from ..objectives.base import Task
from ..precision import autocast
from . import apgd
from .base import JudgeFn, LossFn, X
from .chunks import chunks, class_logits, logits_of
from .fab import fab
from .square import square

CLEAN = 0  # in `felled_by`: wrong without any attack
STANDS = -1


class AutoAttack:
    """The attacks of `config.cascade`, one after the other. Draws come from the task's rng.

    felled_by: of the last call of `fool`, (N,) int64: k for the k-th attack of the cascade (from 1), or CLEAN, or STANDS
    """

    losses: Sequence[Tensor] = ()

    def __init__(self, config: AttackConfig) -> None:
        self.config = config
        self.felled_by = torch.empty(0, dtype=torch.int64)

    def __call__(self, loss_fn: LossFn[X], task: Task) -> NoReturn:
        """Not for training: `config.checks` refuses it."""
        raise TypeError("AutoAttack judges a model; it does not train one")

    def fool(self, judge: JudgeFn[Tensor], task: Task) -> Tensor:
        """Images (N, C, H, W) float32 in [0,1] within eps of `task.inputs`: one that fools the model, else the clean image."""
        clean = alone(task.inputs).detach()
        result, logits = clean.clone(), logits_of(judge, clean, task)
        self.felled_by = torch.where(logits.argmax(1) == task.targets, STANDS, CLEAN)
        ranked = logits.argsort(dim=1, descending=True, stable=True)
        for number, name in enumerate(self.config.cascade, 1):
            # Targets are the most likely wrong classes on the clean image: places 1, 2, … of `ranked`.
            for place in range(1, self.config.targets + 1) if name in TARGETED else (0,):
                standing = (self.felled_by == STANDS).nonzero()[:, 0]
                for part, padded in chunks(standing):
                    found = self._run(name, judge, task.select(padded), ranked[padded, place], place)[: len(part)]
                    # fp32 confirms what half precision found.
                    fell = logits_of(judge, found, task.select(part)).argmax(1) != task.targets[part]
                    result[part[fell]] = found[fell]
                    self.felled_by[part[fell]] = number
        return result

    def _run(self, name: str, judge: JudgeFn[Tensor], task: Task, targets: Tensor, place: int) -> Tensor:
        """What one attack finds for a chunk; `targets` (ROWS,) are the classes of this `place`."""

        def query(x: Tensor) -> Tensor:
            with autocast(x.device, self.config.precision):
                return class_logits(judge, x, task)

        x, labels = alone(task.inputs).detach(), task.targets
        eps, steps, draws = self.config.eps, self.config.steps, f"autoattack.{name}.{place}"
        if name == "square":
            return square(query, x, labels, task.rng, draws, eps, self.config.queries)
        if name == "fab-t":
            return fab(query, x, labels, targets, eps, steps)
        loss = apgd.cross_entropy(labels) if name == "apgd-ce" else apgd.dlr_targeted(labels, targets)
        return apgd.apgd(query, loss, x, labels, apgd.start(x, eps, task.rng, draws), eps, steps)

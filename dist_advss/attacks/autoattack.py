"""AutoAttack (Croce and Hein, ICML 2020): a cascade of attacks, each on the images that the ones before could not fool.

The verdict on an image depends on the weights, the image, its position and the seed. The batch size, the number of processes, the
order of the images and an interruption do not matter: draws are named by attack, target and row, and all work is done in
chunks of one constant shape (see chunks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ..config.attack import PGD_SUITE, RESTARTED, TARGETED
from ..config.attack import Attack as AttackConfig
from ..images import alone
from ..objectives.base import Task
from ..precision import autocast
from . import apgd, pgd_suite
from .balls import BALLS, Ball, start
from .base import JudgeFn, LossFn, X
from .chunks import chunks, class_logits, logits_of
from .fab import fab, nearest, towards
from .square import square

CLEAN = 0  # in `felled_by`: wrong without any attack
STANDS = -1

L1_TARGETS = 5  # of APGD-T in l1, as in the official code

LOSSES: dict[str, Callable[[Tensor, Tensor], apgd.Loss]] = {
    "apgd-ce": lambda labels, targets: apgd.cross_entropy(labels),
    "apgd-dlr": lambda labels, targets: apgd.dlr(labels),
    "apgd-t": apgd.dlr_targeted,
}


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
            for place, restart in self._searches(name):
                standing = (self.felled_by == STANDS).nonzero()[:, 0]
                for part, padded in chunks(standing):
                    found = self._run(name, judge, task.select(padded), ranked[padded, place], place, restart)
                    astray = self._astray(judge, found, task.select(padded))[: len(part)]
                    found = found[: len(part)]
                    # fp32 confirms what half precision found.
                    fell = logits_of(judge, found, task.select(part)).argmax(1) != task.targets[part]
                    # A search ends where its own precision is wrong. Where fp32 is not, it is done again in fp32.
                    for again, filled in chunks(part[astray & ~fell]):
                        rows, goals = task.select(filled), ranked[filled, place]
                        exact = self._run(name, judge, rows, goals, place, restart, "fp32")[: len(again)]
                        here = torch.isin(part, again)
                        found[here] = exact
                        fell[here] = logits_of(judge, exact, task.select(again)).argmax(1) != task.targets[again]
                    result[part[fell]] = found[fell]
                    self.felled_by[part[fell]] = number
        return result

    def _astray(self, judge: JudgeFn[Tensor], x: Tensor, task: Task) -> Tensor:
        """Which rows (ROWS,) half precision is wrong on: there its search has ended. None in fp32."""
        if self.config.precision == "fp32":
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with torch.no_grad(), autocast(x.device, self.config.precision):
            return class_logits(judge, x, task).argmax(1) != task.targets

    def _searches(self, name: str) -> list[tuple[int, int]]:
        """The searches of an attack: which of the classes, by likelihood, is the target (from 1; 0: none), and which restart."""
        restarts = range(self.config.restarts if name in RESTARTED else 1)
        if name not in TARGETED:
            return [(0, restart) for restart in restarts]
        targets = (
            min(self.config.targets, L1_TARGETS)
            if (self.config.norm, name) == ("l1", "apgd-t")
            else self.config.targets
        )
        return [(place, restart) for restart in restarts for place in range(1, targets + 1)]

    def _run(
        self,
        name: str,
        judge: JudgeFn[Tensor],
        task: Task,
        targets: Tensor,
        place: int,
        restart: int,
        precision: str | None = None,
    ) -> Tensor:
        """What one search finds for a chunk (ROWS, C, H, W), in `precision` (None: the attack's own).

        `targets` (ROWS,) are the classes of this `place`.
        """

        def query(x: Tensor) -> Tensor:
            with autocast(x.device, precision or self.config.precision):
                return class_logits(judge, x, task)

        x, labels = alone(task.inputs).detach(), task.targets
        ball, draws = BALLS[self.config.norm](self.config.eps), f"autoattack.{name}.{place}.{restart}"
        if name in PGD_SUITE:
            return pgd_suite.run(name, self.config, query, x, labels, targets, task.rng, draws)
        if name == "square":
            return square(query, x, labels, task.rng, draws, ball, self.config.queries)
        if name in ("fab", "fab-t"):
            boundary = nearest(query, labels, ball) if name == "fab" else towards(query, labels, targets)
            begin = x if restart == 0 else start(ball, x, task.rng, draws, share=0.5)
            return fab(query, boundary, x, labels, begin, ball, self.config.steps)
        return self._ascend(query, LOSSES[name](labels, targets), task, draws, ball)

    def _ascend(self, query: apgd.Query, loss: apgd.Loss, task: Task, draws: str, ball: Ball) -> Tensor:
        """APGD, from a random start."""
        x, steps, passes = alone(task.inputs).detach(), self.config.steps, self.config.eot
        if self.config.norm == "l1":
            begin = x + task.rng.normal(draws, x.shape[1:])
            return apgd.sparse(query, loss, x, task.targets, begin, ball.eps, steps, passes)
        return apgd.apgd(query, loss, x, task.targets, start(ball, x, task.rng, draws), ball, steps, passes)

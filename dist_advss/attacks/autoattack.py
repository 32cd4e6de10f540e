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
from ..row_maths import column, lead
from . import apgd, pgd_suite
from .balls import BALLS, Ball, start
from .base import JudgeFn, LossFn, X
from .chunks import class_logits, filled, logits_of, rows_on
from .fab import fab, nearest, towards
from .square import square
from .threat import THREATS

CLEAN = 0  # in `felled_by`: wrong without any attack
STANDS = -1

L1_TARGETS = 5  # of APGD-T in l1, as in the official code
INSIDE = 1e-4  # of eps: how far beyond the ball rounding may lead
FEW = 4  # rows of a pass that confirms

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
        most = rows_on(clean.device)
        for number, name in enumerate(self.config.cascade, 1):
            # The searches of all rows, the first of each row first. A chunk takes the next ones, whatever row they are for.
            searches = self._searches(name)
            standing = (self.felled_by == STANDS).nonzero()[:, 0]
            rows = standing.repeat(len(searches))
            which = torch.arange(len(searches), device=rows.device).repeat_interleave(len(standing))
            while len(rows) > 0:
                part, padded, ways = rows[:most], filled(rows[:most], most), filled(which[:most], most)
                places = torch.tensor([place for place, _ in searches], device=rows.device)[ways]
                found = self._run(name, judge, task.select(padded), ranked[padded, places], searches, ways)[: len(part)]
                # fp32 confirms what half precision found.
                fell = logits_of(judge, found, task.select(part)).argmax(1) != task.targets[part]
                # A row can be in a chunk twice. Its first search counts, as if the others had not begun.
                first: dict[int, int] = {}
                for place, row in zip(fell.nonzero()[:, 0].tolist(), part[fell].tolist(), strict=True):
                    first.setdefault(row, place)
                fallen = torch.tensor(list(first), dtype=torch.int64, device=rows.device)
                result[fallen] = found[list(first.values())]
                self.felled_by[fallen] = number
                left = self.felled_by[rows[most:]] == STANDS
                rows, which = rows[most:][left], which[most:][left]
        return result

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
        searches: Sequence[tuple[int, int]],
        ways: Tensor,
    ) -> Tensor:
        """What the searches `ways` (ROWS,), numbers in `searches`, find for the rows of a chunk (ROWS, C, H, W).

        `targets` (ROWS,) are the classes of their places.
        """
        x, labels = alone(task.inputs).detach(), task.targets
        config, ball = self.config, BALLS[self.config.norm](self.config.eps)
        query = Query(judge, task, ball, config.precision)

        def begin(drawn: Callable[[str], Tensor], first: Tensor | None = None) -> Tensor:
            """The start of each row's search, by the name of its draws; `first` is that of the first restart."""
            starts = torch.empty_like(x)
            for way in ways.unique().tolist():
                place, restart = searches[way]
                known = first is not None and restart == 0
                one = first if known else drawn(f"autoattack.{name}.{place}.{restart}")
                starts = torch.where(column(ways == way, x), one, starts)  # type: ignore[arg-type]
            return starts

        if name in PGD_SUITE:
            threat = THREATS[config.norm](config.eps)
            starts = x if name == "mi-fgsm" else begin(lambda draws: threat.start(x, task.rng, draws))
            return pgd_suite.run(name, config, query, x, labels, targets, starts)
        if name == "square":
            return square(query, x, labels, task.rng, "autoattack.square.0.0", ball, config.queries)
        if name in ("fab", "fab-t"):
            boundary = nearest(query, labels, ball) if name == "fab" else towards(query, labels, targets)
            starts = begin(lambda draws: start(ball, x, task.rng, draws, share=0.5), first=x)
            return fab(query, boundary, x, labels, starts, ball, config.steps)
        loss = LOSSES[name](labels, targets)
        if config.norm == "l1":
            starts = begin(lambda draws: x + task.rng.normal(draws, x.shape[1:]))
            return apgd.sparse(query, loss, x, labels, starts, ball.eps, config.steps, config.eot)
        starts = begin(lambda draws: start(ball, x, task.rng, draws))
        return apgd.apgd(query, loss, x, labels, starts, ball, config.steps, config.eot)


class Query:
    """A chunk's images (ROWS, C, H, W) to logits (ROWS, classes), in `precision`.

    Half precision alone fells no image: where it has a row of the ball wrong, the logits are those of fp32, with the gradient of
    half precision. A row that fp32 has had wrong there has fallen, and is not looked at again.
    """

    def __init__(self, judge: JudgeFn[Tensor], task: Task, ball: Ball, precision: str) -> None:
        self.judge, self.task, self.ball, self.precision = judge, task, ball, precision
        self.fallen = torch.zeros_like(task.targets, dtype=torch.bool)

    def __call__(self, x: Tensor) -> Tensor:
        with autocast(x.device, self.precision):
            logits = class_logits(self.judge, x, self.task)
        if self.precision == "fp32":
            return logits
        seen, images, clean = logits.detach(), x.detach(), alone(self.task.inputs)
        inside = self.ball.length(images - clean) <= self.ball.eps * (1 + INSIDE)
        doubted = ((lead(seen, self.task.targets) <= 0) & inside & ~self.fallen).nonzero()[:, 0]
        if len(doubted) == 0:
            return logits
        exact = logits_of(self.judge, images[doubted], self.task.select(doubted), FEW)
        self.fallen[doubted] = exact.argmax(1) != self.task.targets[doubted]
        return logits + (seen.index_copy(0, doubted, exact) - seen)

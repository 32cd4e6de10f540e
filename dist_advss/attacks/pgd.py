"""Projected gradient descent (Madry et al. 2018) against any objective. FGSM is PGD with one step.

What the attack returns is detached and allowed by its threat model. The variable that it moves is kept in at least fp32.
The forward pass runs under autocast where the configuration says so. The per-image losses are summed, so that a gradient
does not shrink with the batch. The parameters are frozen during the attack, so that no weight gradient is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import collectives
from ..config.attack import Attack
from ..images import pack, unpack
from ..models.norms import BATCH_NORMS
from ..objectives.base import Task
from ..precision import autocast
from ..row_maths import column
from .base import JudgeFn, LossFn, X
from .threat import THREATS, Noisy, Threat

FP16_LOSS_SCALE = 1024.0  # lifts input gradients out of fp16's subnormals; a step only uses their direction
FP16_SMALLEST_LOSS = 2.0**-24  # below which fp32 no longer tells a loss from none

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Rows:
    """The rows under attack: their task, and its inputs as a tuple in at least fp32.

    So a step smaller than a half-precision ulp of a pixel is not lost.
    """

    task: Task
    clean: Tensors

    @classmethod
    def of(cls, task: Task) -> Rows:
        return cls(task, tuple(x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in pack(task.inputs)))

    def select(self, index: Tensor) -> Rows:
        return Rows(self.task.select(index), _select(self.clean, index))

    def shown(self, images: Tensors) -> Any:
        """`Images`: one tensor or a tuple, as the task's inputs are, which is what a loss function of this task takes."""
        return unpack(images, self.task.inputs)


class PGD:
    """An attack on `module`, the bare network that `loss_fn` runs. It reads no data and draws only from the task's rng.

    `losses` is what the last call ascended: the mean over the batch before each step (of the last restart), detached
    scalars on the device, so that nothing waits for them. `couples_rows` says that the loss of a row depends on others.
    """

    def __init__(
        self, config: Attack, module: nn.Module, threat: Threat | None = None, couples_rows: bool = False
    ) -> None:
        self.config = config
        self.module = module
        self.threat = threat or threat_of(config)
        self.couples_rows = couples_rows
        self.step_size = step_size(config)
        self.losses: list[Tensor] = []

    def __call__(self, loss_fn: LossFn[X], task: Task) -> X:
        """Adversarial examples for `task.inputs`: the last iterate, of the restart with the highest loss.

        `loss_fn(x, task)` gives (N,), what is ascended. Returns float32 in [0,1], shaped like the inputs, detached.
        """
        rows = Rows.of(task)
        with self._undisturbed():
            best = self._attack(loss_fn, rows, 0)
            if self.config.restarts > 1:
                best_loss = self._loss(loss_fn, best, rows)
            for restart in range(1, self.config.restarts):
                found = self._attack(loss_fn, rows, restart)
                loss = self._loss(loss_fn, found, rows)
                better = loss > best_loss
                best = tuple(torch.where(column(better, f), f, b) for f, b in zip(found, best, strict=True))
                best_loss = torch.maximum(loss, best_loss)
        images: X = rows.shown(best)
        return images

    def examples(self, loss_fn: LossFn[X], task: Task) -> Iterator[X]:
        """One update trains on what a call finds."""
        yield self(loss_fn, task)

    def fool(self, judge: JudgeFn[X], task: Task) -> X:
        """Images to judge the network on: with attack.keep=any `until_fooled`, else the last iterate."""
        if self.config.keep == "any":
            return self.until_fooled(judge, task)
        return self(lambda x, rows: judge(x, rows).loss, task)

    def until_fooled(
        self, judge: JudgeFn[X], task: Task, after: Callable[[int, X], None] = lambda step, found: None
    ) -> X:
        """Adversarial examples where any iterate of any restart counts, the clean image included.

        An image leaves the batch once it is judged wrong, so the work shrinks with every image that falls. Rows that
        never fall get the last iterate of the last restart. In half precision a fall counts only where fp32 agrees.
        `after(k, found)` gets what there is after k steps of a restart, from 0 on, until no image is left. It copies what it keeps.
        """
        rows = Rows.of(task)
        result = tuple(x.clone() for x in rows.clean)
        device = result[0].device
        with self._undisturbed():
            standing = torch.arange(len(result[0]), device=device)
            with torch.no_grad(), autocast(device, self.config.precision):
                correct = judge(rows.shown(result), task).correct
            standing = standing[self._confirmed(judge, result, rows, correct) > 0]
            for restart in range(self.config.restarts):
                if len(standing) == 0:
                    break
                part = rows.select(standing)
                z = self._start(part, restart)
                for step in range(self.config.steps + 1):
                    last = step == self.config.steps
                    x, gradients, correct = self._gradients_and_verdicts(judge, z, part, needed=not last)
                    for whole, piece in zip(result, x, strict=True):
                        whole[standing] = piece
                    after(step, rows.shown(result))
                    up = self._confirmed(judge, x, part, correct) > 0
                    standing, part, z = standing[up], part.select(up), _select(z, up)
                    if last or len(standing) == 0:
                        break
                    z = self._move(z, _select(gradients, up), part)
        images: X = rows.shown(result)
        return images

    def start(self, task: Task, restart: int) -> Tensors:
        """Where a restart begins, for each input: a random z of the threat model, or the one that changes nothing."""
        return self._start(Rows.of(task), restart)

    def ascend(self, loss_fn: LossFn[X], task: Task, start: Tensors) -> Tensors:
        """z after `steps` projected steps from `start`."""
        return self._ascend(loss_fn, Rows.of(task), start)

    def _attack(self, loss_fn: LossFn[X], rows: Rows, restart: int) -> Tensors:
        z = self._ascend(loss_fn, rows, self.start(rows.task, restart))
        with torch.no_grad():
            return self._apply(rows, z)

    def _start(self, rows: Rows, restart: int) -> Tensors:
        rng = rows.task.rng if self.config.random_start else None
        return tuple(self.threat.start(x, rng, f"attack.{restart}.{i}") for i, x in enumerate(rows.clean))

    def _apply(self, rows: Rows, z: Tensors) -> Tensors:
        return tuple(self.threat.apply(clean, piece) for clean, piece in zip(rows.clean, z, strict=True))

    def _ascend(self, loss_fn: LossFn[X], rows: Rows, z: Tensors) -> Tensors:
        self.losses = []
        for _ in range(self.config.steps):
            z = self._move(z, self._gradients(loss_fn, z, rows), rows)
        return z

    def _move(self, z: Tensors, gradients: Tensors, rows: Rows) -> Tensors:
        moved = []
        for piece, gradient, clean in zip(z, gradients, rows.clean, strict=True):
            stepped = self.threat.step(piece, gradient, self.step_size)
            moved.append(self.threat.project(stepped, clean))
        return tuple(moved)

    def _gradients(self, loss_fn: LossFn[X], z: Tensors, rows: Rows) -> Tensors:
        return self._look(loss_fn, z, rows)[0]

    def _look(self, loss_fn: LossFn[X], z: Tensors, rows: Rows) -> tuple[Tensors, Tensor]:
        """Gradients and losses (N,) at z. The mean loss is added to `losses`."""
        leaves = tuple(piece.detach().requires_grad_() for piece in z)
        with autocast(leaves[0].device, self.config.precision):
            losses = loss_fn(rows.shown(self._apply(rows, leaves)), rows.task).float()
            total = self._total(losses)
        self.losses.append(losses.detach().mean())
        # One of several inputs may have no part in the loss, as the clean view of ACL's a2s. It has a zero gradient.
        return torch.autograd.grad(total, leaves, materialize_grads=len(leaves) > 1), losses.detach()

    def _gradients_and_verdicts(
        self, judge: JudgeFn[X], z: Tensors, rows: Rows, needed: bool
    ) -> tuple[Tensors, Tensors, Tensor]:
        """The images at z, gradients there (none when not needed) and verdicts (N,), in one forward pass."""
        leaves = tuple(piece.detach().requires_grad_(needed) for piece in z)
        with torch.set_grad_enabled(needed), autocast(leaves[0].device, self.config.precision):
            x = self._apply(rows, leaves)
            judgement = judge(rows.shown(x), rows.task)
        gradients = torch.autograd.grad(self._total(judgement.loss.float()), leaves) if needed else ()
        return tuple(piece.detach() for piece in x), gradients, judgement.correct

    def _confirmed(self, judge: JudgeFn[X], x: Tensors, rows: Rows, correct: Tensor) -> Tensor:
        """`correct`, where the rows that half precision judged wrong are judged again in fp32."""
        fallen = correct <= 0
        if self.config.precision == "fp32" or not fallen.any():
            return correct
        with torch.no_grad():
            again = judge(rows.shown(_select(x, fallen)), rows.task.select(fallen)).correct
        return correct.masked_scatter(fallen, again)

    def _loss(self, loss_fn: LossFn[X], x: Tensors, rows: Rows) -> Tensor:
        with torch.no_grad(), autocast(x[0].device, self.config.precision):
            return loss_fn(rows.shown(x), rows.task).float()

    def _total(self, loss: Tensor) -> Tensor:
        """The sum of the per-image losses. In fp16 it is scaled, so that gradients of very sure answers do not vanish.

        A sure answer's gradient is about as small as its loss, so each loss is divided by itself. Where rows depend on
        each other, through batch norm or the loss itself, all of them are scaled alike: otherwise the direction changes.
        """
        if self.config.precision != "fp16":
            return loss.sum()
        size = loss.detach().abs()
        if self.couples_rows:  # over processes too, whose rows have a say in these gradients
            size = collectives.mean(size.mean())
        elif self.config.batch_norm != "eval" and self.module.training:
            size = size.mean()
        return (loss * (FP16_LOSS_SCALE / size.clamp(FP16_SMALLEST_LOSS, 1))).sum()

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Parameters frozen and the batch-norm policy in force. Afterwards both are as before."""
        trained = [p for p in self.module.parameters() if p.requires_grad]
        norms = [
            m for m in self.module.modules() if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats
        ]
        policy = self.config.batch_norm
        for p in trained:
            p.requires_grad_(False)
        for norm in norms:
            if policy == "batch":
                norm.track_running_stats = False
            elif policy == "eval":
                norm.training = False
        try:
            with torch.enable_grad():
                yield
        finally:
            for p in trained:
                p.requires_grad_(True)
            for norm in norms:
                norm.track_running_stats, norm.training = True, True


def threat_of(config: Attack) -> Threat:
    """The ball of attack.norm, or N-FGSM's threat, which leaves it."""
    if config.noise:
        return Noisy(config.eps, noise=config.noise)
    return THREATS[config.norm](config.eps, config.clamp_start)


def step_size(config: Attack) -> float:
    """The length of a step: `step_size` where it is set, else eps/4, as published with 10 and 20 steps.

    Fewer than five steps still go 1.25 eps in all, as Wong et al. 2020 do in one. N-FGSM's and Free's step is eps, APGD's first 2 eps.
    """
    if config.step_size is not None:
        return config.step_size
    if config.algorithm == "apgd":
        return 2 * config.eps
    if config.noise or config.algorithm == "free":
        return config.eps
    return config.eps * max(1 / 4, 1.25 / max(config.steps, 1))


def _select(tensors: Tensors, index: Tensor) -> Tensors:
    return tuple(piece[index] for piece in tensors)

"""Projected gradient descent (Madry et al. 2018) against any objective; FGSM is PGD with one step.

The perturbation is kept in fp32 (fp64 for fp64 images), the forward pass runs under autocast where asked, the per-image
losses are summed so that a gradient does not shrink with the batch, and the parameters are frozen meanwhile, so that no
weight gradient is computed. What comes back is detached and inside ball and box.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..config.schema import Attack
from ..objectives.base import Images, Judgement, Task, as_tuple
from .threat import BALLS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FP16_LOSS_SCALE = 1024.0  # lifts input gradients out of fp16's subnormals; a step only uses their direction
FP16_SMALLEST_LOSS = 2.0**-24  # below which fp32 no longer tells a loss from none

LossFn = Callable[[Images, Task], Tensor]
JudgeFn = Callable[[Images, Task], Judgement]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class PGD:
    """An attack on `module`, the bare network that `loss_fn` runs. Reads no data and draws only from the task's rng.

    `losses` is what the last call ascended: the mean over the batch before each step (of the last restart), detached
    scalars on the device, so that nothing waits for them.
    """

    def __init__(self, config: Attack, module: nn.Module) -> None:
        self.config, self.module = config, module
        self.losses: list[Tensor] = []
        self.ball = BALLS[config.norm](config.eps)
        self.step_size = step_size(config)

    def __call__(self, loss_fn: LossFn, task: Task) -> Images:
        """Adversarial examples for `task.inputs`: the last iterate, of the restart with the highest loss.

        `loss_fn(x, task)` gives (N,), what is ascended. Returns float32 in [0,1], shaped like the inputs, detached.
        """
        with self._undisturbed():
            best = self.ascend(loss_fn, task, self.start(task, 0))
            if self.config.restarts > 1:
                best_loss = self._loss(loss_fn, best, task)
            for restart in range(1, self.config.restarts):
                found = self.ascend(loss_fn, task, self.start(task, restart))
                loss = self._loss(loss_fn, found, task)
                better = loss > best_loss
                best = tuple(torch.where(_column(better, f), f, b) for f, b in zip(found, best, strict=True))
                best_loss = torch.maximum(loss, best_loss)
        return best if isinstance(task.inputs, tuple) else best[0]

    def until_fooled(self, judge: JudgeFn, task: Task) -> Images:
        """Adversarial examples where any iterate of any restart counts, the clean image included.

        An image leaves the batch once it is judged wrong, so the work shrinks as the model falls. Rows that never fall get
        the last iterate of the last restart. In half precision a fall counts only where fp32 agrees.
        """
        result = tuple(_perturbable(x).clone() for x in as_tuple(task.inputs))
        device = result[0].device
        with self._undisturbed():
            standing = torch.arange(len(result[0]), device=device)
            with torch.no_grad(), self._autocast(device):
                correct = judge(_like(task.inputs, result), task).correct
            standing = standing[self._confirmed(judge, result, task, correct) > 0]
            for restart in range(self.config.restarts):
                if len(standing) == 0:
                    break
                part = task.select(standing)
                x = self.start(part, restart)
                for step in range(self.config.steps + 1):
                    last = step == self.config.steps
                    gradients, correct = self._gradients_and_verdicts(judge, x, part, needed=not last)
                    for whole, piece in zip(result, x, strict=True):
                        whole[standing] = piece
                    up = self._confirmed(judge, x, part, correct) > 0
                    standing, part, x = standing[up], part.select(up), tuple(piece[up] for piece in x)
                    if last or len(standing) == 0:
                        break
                    x = self._move(x, tuple(g[up] for g in gradients), part)
        return _like(task.inputs, result)

    def start(self, task: Task, restart: int) -> tuple[Tensor, ...]:
        """Where a restart begins: a random point of each input's ball, or the clean input."""
        clean = tuple(_perturbable(x) for x in as_tuple(task.inputs))
        if not self.config.random_start:
            return clean
        return tuple(self.ball.random_start(x, task.rng, f"attack.{restart}.{i}") for i, x in enumerate(clean))

    def ascend(self, loss_fn: LossFn, task: Task, start: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """`steps` projected steps from `start`."""
        x = start
        self.losses = []
        for _ in range(self.config.steps):
            x = self._move(x, self._gradients(loss_fn, x, task), task)
        return x

    def _move(self, x: tuple[Tensor, ...], gradients: tuple[Tensor, ...], task: Task) -> tuple[Tensor, ...]:
        moved = []
        for piece, gradient, clean in zip(x, gradients, as_tuple(task.inputs), strict=True):
            stepped = self.ball.step(piece, gradient, self.step_size)
            moved.append(self.ball.project(stepped, _perturbable(clean)))
        return tuple(moved)

    def _gradients(self, loss_fn: LossFn, x: tuple[Tensor, ...], task: Task) -> tuple[Tensor, ...]:
        """Gradients at x; the mean loss there is added to `losses`."""
        leaves = tuple(piece.detach().requires_grad_() for piece in x)
        with self._autocast(leaves[0].device):
            losses = loss_fn(_like(task.inputs, leaves), task).float()
            total = self._total(losses)
        self.losses.append(losses.detach().mean())
        return torch.autograd.grad(total, leaves)

    def _gradients_and_verdicts(
        self, judge: JudgeFn, x: tuple[Tensor, ...], task: Task, needed: bool
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Gradients at x (none when not needed) and whether each row is still judged right there, in one forward pass."""
        leaves = tuple(piece.detach().requires_grad_(needed) for piece in x)
        with torch.set_grad_enabled(needed), self._autocast(leaves[0].device):
            loss, correct = judge(_like(task.inputs, leaves), task)
        return (torch.autograd.grad(self._total(loss.float()), leaves) if needed else ()), correct

    def _confirmed(self, judge: JudgeFn, x: tuple[Tensor, ...], task: Task, correct: Tensor) -> Tensor:
        """`correct`, where the rows that half precision judged wrong are judged again in fp32."""
        fallen = correct <= 0
        if self.config.precision == "fp32" or not fallen.any():
            return correct
        with torch.no_grad():
            again = judge(_like(task.inputs, tuple(piece[fallen] for piece in x)), task.select(fallen)).correct
        return correct.masked_scatter(fallen, again)

    def _loss(self, loss_fn: LossFn, x: tuple[Tensor, ...], task: Task) -> Tensor:
        with torch.no_grad(), self._autocast(x[0].device):
            return loss_fn(_like(task.inputs, x), task).float()

    def _total(self, loss: Tensor) -> Tensor:
        """The sum of the per-image losses; in fp16 scaled, so that the gradients of very sure answers do not vanish.

        A sure answer's gradient is about as small as its loss, so each loss is divided by itself. Where batch norm looks at
        the whole batch, images have a say in each other's gradients, and all are scaled alike.
        """
        if self.config.precision != "fp16":
            return loss.sum()
        alone = self.config.batch_norm == "eval" or not self.module.training
        size = loss.detach().abs()
        size = size if alone else size.mean()
        return (loss * (FP16_LOSS_SCALE / size.clamp(FP16_SMALLEST_LOSS, 1))).sum()

    def _autocast(self, device: torch.device) -> torch.autocast:
        dtype = DTYPES[self.config.precision]
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Parameters frozen and the batch-norm policy in force; both as before afterwards."""
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


def step_size(config: Attack) -> float:
    """The length of a step: as given, or eps/4, as published with 10 and 20 steps.

    Fewer than five steps still go 1.25 eps in all, as Wong et al. 2020 do in one.
    """
    if config.step_size is not None:
        return config.step_size
    return config.eps * max(1 / 4, 1.25 / max(config.steps, 1))


def _perturbable(x: Tensor) -> Tensor:
    """Detached, and in at least fp32, so that a step smaller than a half-precision ulp is not lost."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _like(inputs: Images, x: tuple[Tensor, ...]) -> Images:
    return x if isinstance(inputs, tuple) else x[0]


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.dim() - 1))

"""What an objective is: a task to set, a loss to attack, one forward to train on.

A new one subclasses `Objective`, sets the task in `prepare` and judges an answer in `judge`; the attack, the clean and
adversarial average and every engine follow from these two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..images import Images
from ..rng import Rng


@dataclass
class Task:
    """What to look at and what to answer, for the rows of one batch.

    inputs:  what the attack perturbs, float32 in [0,1]: (N, C, H, W), or a tuple of such tensors
    targets: (N, …), the answers
    rng:     the draws of this step, with these rows
    shared:  what holds for the whole batch (such as which patches are masked)
    by_row:  what else belongs to each row (such as the logits of its clean image), (N, …) each
    """

    inputs: Images
    targets: Tensor
    rng: Rng
    shared: dict[str, Tensor] = field(default_factory=dict)
    by_row: dict[str, Tensor] = field(default_factory=dict)

    def select(self, index: Tensor) -> Task:
        """The same task for a subset of its rows; `index` is (M,) int64 or a boolean mask (N,)."""
        inputs = tuple(x[index] for x in self.inputs) if isinstance(self.inputs, tuple) else self.inputs[index]
        by_row = {name: tensor[index] for name, tensor in self.by_row.items()}
        return replace(self, inputs=inputs, targets=self.targets[index], rng=self.rng.select(index), by_row=by_row)


class Judgement(NamedTuple):
    """Image by image: loss (N,) float32, and correct (N,) float32, the share of its questions answered rightly.

    One question an image, so 0 or 1, for all but Selfie, which asks one for each masked patch. `logits` (N, K) are there
    where the question is which of K classes `task.targets` names. Attacks that need more than a loss use them.
    """

    loss: Tensor
    correct: Tensor
    logits: Tensor | None = None


@dataclass
class Outcome:
    """What one wrapped forward gives: the scalar to minimise, per-image judgements of its clean and adversarial part, and
    further scalars to log by name.
    """

    loss: Tensor
    clean: Judgement | None
    adversarial: Judgement | None
    also: dict[str, Tensor] = field(default_factory=dict)

    def terms(self) -> dict[str, Tensor]:
        """Means over the batch by the name they are logged under, detached scalars."""
        named = {"loss": self.loss.detach()}
        for part in ("clean", "adversarial"):
            judged = getattr(self, part)
            if judged is not None:
                named[f"loss_{part}"] = judged.loss.detach().mean()
                named[f"accuracy_{part}"] = judged.correct.mean()
        return named | {name: value.detach() for name, value in self.also.items()}


class Objective(nn.Module):
    """The base of every objective. It owns its backbone and heads; `encoder` is theta_p, what pre-training transfers.

    `clean_weight` is the share of the clean loss where there is an adversarial one: 1/2 in pre-training (the paper's P3),
    0 in fine-tuning (F2, F4).
    """

    clean_weight = 0.5
    encoder: nn.Module
    encoder_frozen = False

    def freeze_encoder(self) -> None:
        """theta_p stays as it is: no gradients, and its batch norms keep the statistics they have (F1, F2)."""
        self.encoder_frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> Objective:
        """As nn.Module.train, but a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        """A task from whole batches: images float32 (N, C, H, W) in [0,1], labels (N,) int64 (-1: unknown).

        An objective whose configuration says `views` = 2 or more gets a tuple of that many versions of each image.
        """
        raise NotImplementedError

    def judge(self, x: Images, task: Task) -> Judgement:
        """The loss and verdict of each image when the network looks at `x` instead of `task.inputs`."""
        raise NotImplementedError

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        """(N,), what the attacker ascends."""
        return self.judge(x_adv, task).loss

    def forward(self, task: Task, x_adv: Images | None = None) -> Outcome:
        """Loss of the step: clean only without `x_adv`, else clean_weight * clean + (1 - clean_weight) * adversarial."""
        if x_adv is None:
            clean = self.judge(task.inputs, task)
            return Outcome(clean.loss.mean(), clean, None)
        adversarial = self.judge(x_adv, task)
        if self.clean_weight == 0:
            return Outcome(adversarial.loss.mean(), None, adversarial)
        clean = self.judge(task.inputs, task)
        loss = self.clean_weight * clean.loss.mean() + (1 - self.clean_weight) * adversarial.loss.mean()
        return Outcome(loss, clean, adversarial)


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision as fp32; fp32 and fp64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy(logits: Tensor, targets: Tensor) -> Judgement:
    """Per-image cross-entropy of logits (N, K) in at least fp32 against targets (N,), and whether the largest logit is right."""
    loss = nn.functional.cross_entropy(at_least_fp32(logits), targets, reduction="none")
    return Judgement(loss, (logits.detach().argmax(1) == targets).float(), logits)


def patches(images: Tensor, grid: int) -> Tensor:
    """(N, C, H, W) as (N, grid*grid, C, H/grid, W/grid), row by row; no copy of pixels but the one of the reshape."""
    n, c, h, w = images.shape
    size_h, size_w = h // grid, w // grid
    cut = images.reshape(n, c, grid, size_h, grid, size_w)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, c, size_h, size_w)


def assemble(tiles: Tensor, grid: int) -> Tensor:
    """The inverse of `patches`."""
    n, _, c, h, w = tiles.shape
    laid = tiles.reshape(n, grid, grid, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return laid.reshape(n, c, grid * h, grid * w)

"""The base of every objective: it sets a task, gives the loss to attack, and has one forward pass to train on.

A new one subclasses `Objective`, sets the task in `prepare` and judges answers in `judge`. The attack, the average of clean
and adversarial loss, and every engine work with these two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, nn

from ..images import Images, pack
from ..precision import at_least_fp32, autocast
from ..rng import Rng


@dataclass
class Task:
    """The inputs and the right answers for the rows of one batch.

    inputs:  what the attack perturbs, float32 in [0,1]: (N, C, H, W), or a tuple of such tensors
    targets: (N, …), the answers
    rng:     the draws of this step, with these rows
    shared:  tensors for the whole batch, such as which patches are masked
    by_row:  further tensors (N, …) with an entry for each row, such as the logits of its clean image
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
    """For each image: loss (N,) float32, and correct (N,) float32, the share of its questions that are answered right.

    One question an image, so 0 or 1, for all but Selfie, which asks one for each masked patch. `logits` (N, K) are there
    where the question is which of K classes `task.targets` names. Attacks that need more than a loss use them.
    """

    loss: Tensor
    correct: Tensor
    logits: Tensor | None = None


def finite(judgement: Judgement) -> Tensor:
    """Which rows (N,) have a finite loss and finite logits. A verdict on any other row means nothing: NaN has an argmax."""
    rows = judgement.loss.detach().isfinite()
    return rows if judgement.logits is None else rows & judgement.logits.detach().isfinite().flatten(1).all(1)


@dataclass
class Outcome:
    """The result of one wrapped forward: the scalar to minimise, judgements of the clean and the adversarial images, and
    further scalars to log by name.
    """

    loss: Tensor
    clean: Judgement | None
    adversarial: Judgement | None
    also: dict[str, Tensor] = field(default_factory=dict)

    def terms(self) -> dict[str, Tensor]:
        """Detached means over the batch, by the names that metrics.jsonl has for them."""
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
    0 in fine-tuning (F2, F4). `first`, "adversarial" or "clean", is the pass that runs first (`objective.first`). It only
    decides which pass counts more in batch norm's running statistics. `precision` is what `forward` computes in, "fp32",
    "bf16" or "fp16"; an engine sets it. `epochs` is the length of the run, of which `task.rng.epoch` are over.
    """

    clean_weight = 0.5
    first = "adversarial"
    precision = "fp32"
    epochs = 1
    encoder: nn.Module
    frozen_parts: tuple[str, ...] = ()  # by name, as an engine may replace a batch norm

    def freeze(self, *parts: str) -> None:
        """Keeps the submodules of these names unchanged: no gradients, and their batch norms stay in eval mode."""
        self.frozen_parts = parts
        for part in parts:
            self.get_submodule(part).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Objective:
        """Like nn.Module.train. Frozen parts stay in eval mode."""
        super().train(mode)
        for part in self.frozen_parts:
            self.get_submodule(part).eval()
        return self

    @property
    def trained_encoder(self) -> nn.Module:
        """The encoder that the weights' gradients reach: theta_p, unless that is an average of another one."""
        return self.encoder

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        """All encoders that a step runs: theta_p, and others of its shape beside it, such as a frozen teacher's."""
        return (self.encoder,)

    def after_transfer(self) -> None:
        """Called when theta_p has been loaded from another run, for parts that begin as a copy of it."""

    def after_update(self) -> None:
        """Called after each update of the weights, once on every process, for parts that follow them."""

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        """A task from whole batches: images float32 (N, C, H, W) in [0,1], labels (N,) int64 (-1: unknown).

        An objective whose configuration says `views` = 2 or more gets a tuple of that many versions of each image.
        """
        raise NotImplementedError

    def judge(self, x: Images, task: Task) -> Judgement:
        """The loss and verdict of each image, with `x` in the place of `task.inputs`."""
        raise NotImplementedError

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        """The loss (N,) that the attack ascends: that of `judge`, unless a subclass overrides this."""
        return self.judge(x_adv, task).loss

    def forward(self, task: Task, x_adv: Images | None = None) -> Outcome:
        """`outcome` under autocast, the only call that goes through an engine. Inside, no wrapper overrules the precision."""
        with autocast(pack(task.inputs)[0].device, self.precision):
            return self.outcome(task, x_adv)

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        """Loss of the step: clean only without `x_adv`, else clean_weight * clean + (1 - clean_weight) * adversarial."""
        if x_adv is None:
            clean = self.judge(task.inputs, task)
            return Outcome(clean.loss.mean(), clean, None)
        if self.clean_weight == 0:
            adversarial = self.judge(x_adv, task)
            return Outcome(adversarial.loss.mean(), None, adversarial)
        if self.first == "clean":
            clean = self.judge(task.inputs, task)
            adversarial = self.judge(x_adv, task)
        else:
            adversarial = self.judge(x_adv, task)
            clean = self.judge(task.inputs, task)
        loss = self.clean_weight * clean.loss.mean() + (1 - self.clean_weight) * adversarial.loss.mean()
        return Outcome(loss, clean, adversarial)


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

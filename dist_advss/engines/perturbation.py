"""Adversarial weight perturbation (AWP; Wu et al. 2020, arXiv 2004.05884): the weights that the update's loss is taken at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..images import Images
from ..objectives.base import Task

if TYPE_CHECKING:
    from .base import Engine


class Perturbation:
    """Moves each weight matrix w (`perturbed`) by gamma ||w|| g / ||g|| (eq. 9 and 10).

    g is the gradient of the step's loss over the whole batch, so the loss rises. A tensor whose gradient is zero, or not
    finite (an overflow in fp16), stays. `remove` puts the weights back as they were, to the last bit.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self._moved: list[tuple[Tensor, Tensor]] = []  # this process's part of a weight, and its values before

    def add(self, engine: Engine, task: Task, x_adv: Images | None) -> None:
        """Every process calls it with its share of the batch. Batch-norm statistics do not move."""
        matrices = perturbed(engine.trained().values())
        gradients = engine.loss_gradient(task, x_adv, matrices)
        weights = [engine.local(p.detach()) for p in matrices]
        lengths = engine.norms([*weights, *gradients]).split(len(weights))
        for weight, gradient, length, slope in zip(weights, gradients, *lengths, strict=True):
            self._moved.append((weight, weight.clone()))
            moves = slope.isfinite() & (slope > 0)
            weight.add_(torch.where(moves, gradient * (self.gamma * length / slope), 0.0))

    def remove(self) -> None:
        for weight, before in self._moved:
            weight.copy_(before)
        self._moved.clear()


def perturbed(trained: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The weight matrices among trained parameters: those of two dimensions or more."""
    return [p for p in trained if p.dim() >= 2]

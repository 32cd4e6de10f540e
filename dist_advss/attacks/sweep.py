"""Robust accuracy along a sweep: of one attack at several radii, or of one PGD after several numbers of steps.

The points of a sweep ascend, and each holds the smaller ones: a larger ball holds the smaller balls, and what counts any
iterate counts the earlier ones. So an image that fell at a point has fallen at all later ones, and a curve cannot rise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

import torch
from torch import Tensor

from ..images import alone
from ..objectives.base import Task
from .autoattack import CLEAN, STANDS, AutoAttack
from .base import Attack, JudgeFn, LossFn, X
from .chunks import logits_of
from .pgd import PGD


class Sweep(ABC):
    """What both sweeps note. An image is right at a point where it is right without any attack, and at this and each earlier point.

    The verdict at each point is one in fp32 on what the attack has there, as an evaluation without a sweep reports it.

    felled_at: of the last call of `fool`, (N,) int64: k for the k-th point, ascending from 1, CLEAN or STANDS
    felled_by: the same, by the attack of a cascade, as `AutoAttack` has it, for what fell up to the `own` point; 1 for PGD
    """

    losses: Sequence[Tensor] = ()

    def __init__(self, own: int) -> None:
        self.own = own
        self.felled_at = self.felled_by = torch.empty(0, dtype=torch.int64)

    def __call__(self, loss_fn: LossFn[X], task: Task) -> NoReturn:
        """Not for training, which has no such key."""
        raise TypeError("a sweep judges a model; it does not train one")

    def fool(self, judge: JudgeFn[Tensor], task: Task) -> Tensor:
        """Images (N, C, H, W) float32 in [0,1] as at the `own` point: the first that fools the model, if any does."""
        self.images = alone(task.inputs).detach().clone()
        right = logits_of(judge, self.images, task).argmax(1) == task.targets
        self.felled_at = torch.where(right, STANDS, CLEAN)
        self.felled_by = self.felled_at.clone()
        self._attack(judge, task)
        return self.images

    @abstractmethod
    def _attack(self, judge: JudgeFn[Tensor], task: Task) -> None:
        """Calls `_note` for each point in ascending order, as long as images stand."""

    def _standing(self) -> Tensor:
        """(M,), the rows that no point so far has felled."""
        return (self.felled_at == STANDS).nonzero()[:, 0]

    def _note(self, judge: JudgeFn[Tensor], task: Task, standing: Tensor, point: int, found: Tensor) -> Tensor:
        """(M,) bool: which of the rows `standing`, whose task is `task`, fall to `found` (M, C, H, W) at this point."""
        fell = logits_of(judge, found, task).argmax(1) != task.targets
        self.felled_at[standing[fell]] = point
        if point <= self.own:
            self.images[standing] = found
            self.felled_by[standing[fell]] = 1
        return fell


class RadiusSweep(Sweep):
    """`attacks`, by their radius, each on the images that the smaller ones left. `eps` is the radius that `fool` shows.

    Each attack draws as it does alone, so its draws do not depend on the other radii.
    """

    def __init__(self, attacks: Mapping[float, Attack], eps: float) -> None:
        self.attacks = dict(sorted(attacks.items()))
        super().__init__(own=list(self.attacks).index(eps) + 1)

    def _attack(self, judge: JudgeFn[Tensor], task: Task) -> None:
        for point, attack in enumerate(self.attacks.values(), 1):
            standing = self._standing()
            if len(standing) == 0:
                break
            part = task.select(standing)
            found = alone(attack.fool(judge, part))
            fell = self._note(judge, part, standing, point, found)
            own = cast(object, attack)
            if isinstance(own, AutoAttack) and point <= self.own:
                self.felled_by[standing[fell]] = own.felled_by[fell]


class StepSweep(Sweep):
    """One run of `attack`, looked at after each number of `points` (ascending). `steps` is the number that `fool` shows.

    PGD that counts any iterate of one start, with steps of a fixed length, is the beginning of the same PGD with more steps:
    up to step k both have the same iterates, and the same images in their batches. So the images that the longer one has
    after k steps are, bit for bit, those that PGD with k steps returns.
    """

    def __init__(self, attack: PGD, points: Sequence[int], steps: int) -> None:
        self.attack, self.points = attack, sorted(points)
        super().__init__(own=self.points.index(steps) + 1)

    def _attack(self, judge: JudgeFn[Tensor], task: Task) -> None:
        left = list(enumerate(self.points, 1))

        def look(found: Tensor) -> None:
            standing, (point, _) = self._standing(), left.pop(0)
            if len(standing) > 0:
                self._note(judge, task.select(standing), standing, point, found[standing])

        def after(step: int, found: Tensor) -> None:
            if left and left[0][1] == step:
                look(found)

        last = alone(self.attack.until_fooled(judge, task, after))
        while left:  # the attack ended before, as no image was left to it
            look(last)

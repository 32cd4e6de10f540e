"""One attack at several radii, in ascending order. Each radius attacks only the images that the smaller ones left.

A ball of a larger radius holds the smaller ones. So an image that fell at a radius has fallen at all larger ones, and a curve
of robust accuracy against the radius cannot rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

import torch
from torch import Tensor

from ..images import alone
from ..objectives.base import Task
from .autoattack import CLEAN, STANDS, AutoAttack
from .base import Attack, JudgeFn, LossFn, X
from .chunks import logits_of


class Sweep:
    """`attacks`, by their radius. Each draws as it does alone, so its draws do not depend on the other radii.

    An image is right at a radius where it is right without any attack, and under the attack at this and at each smaller radius.
    `fool` shows the images as at the radius `eps`, one of those of `attacks`.

    felled_at: of the last call of `fool`, (N,) int64: k for the k-th radius, ascending from 1, CLEAN or STANDS
    felled_by: the same, by the attack of a cascade, as `AutoAttack` has it, for what fell within `eps`; 1 for PGD
    """

    losses: Sequence[Tensor] = ()

    def __init__(self, attacks: Mapping[float, Attack], eps: float) -> None:
        self.attacks, self.eps = dict(sorted(attacks.items())), eps
        self.felled_at = self.felled_by = torch.empty(0, dtype=torch.int64)

    def __call__(self, loss_fn: LossFn[X], task: Task) -> NoReturn:
        """Not for training, which has no such key."""
        raise TypeError("a sweep judges a model; it does not train one")

    def fool(self, judge: JudgeFn[Tensor], task: Task) -> Tensor:
        """Images (N, C, H, W) float32 in [0,1] within `eps` of `task.inputs`: the first that fools the model, if any does."""
        clean = alone(task.inputs).detach()
        result, right = clean.clone(), logits_of(judge, clean, task).argmax(1) == task.targets
        self.felled_at = torch.where(right, STANDS, CLEAN)
        self.felled_by = self.felled_at.clone()
        for number, (eps, attack) in enumerate(self.attacks.items(), 1):
            standing = (self.felled_at == STANDS).nonzero()[:, 0]
            if len(standing) == 0:
                break
            part = task.select(standing)
            found = alone(attack.fool(judge, part))
            # The verdict at every radius is one in fp32 on what the attack returned, as without a sweep.
            fell = logits_of(judge, found, part).argmax(1) != part.targets
            self.felled_at[standing[fell]] = number
            if eps <= self.eps:
                result[standing] = found
                own = cast(object, attack)
                self.felled_by[standing[fell]] = own.felled_by[fell] if isinstance(own, AutoAttack) else 1
        return result

"""How images are attacked: norm balls (threat) and projected gradient descent in them (pgd)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..config.schema import Attack
from ..objectives.base import Task
from .pgd import PGD, LossFn
from .threat import L2, Linf

__all__ = ["L2", "PGD", "Linf", "NoAttack", "build"]


class NoAttack:
    """Standard training: there is no adversarial example."""

    losses: Sequence[Tensor] = ()

    def __call__(self, loss_fn: LossFn, task: Task) -> None: ...


def build(config: Attack, module: nn.Module) -> PGD | NoAttack:
    """The attack that a configuration names, on the bare `module`."""
    return PGD(config, module) if config.steps > 0 else NoAttack()

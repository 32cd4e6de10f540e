"""How images are attacked: norm balls (threat) and projected gradient descent in them (pgd)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..config.schema import Attack
from ..objectives.base import Images, Task
from .pgd import PGD, LossFn
from .threat import L2, Linf

__all__ = ["L2", "PGD", "Linf", "build"]


def no_attack(loss_fn: LossFn, task: Task) -> None:
    """Standard training: there is no adversarial example."""


def build(config: Attack, module: nn.Module) -> Callable[[LossFn, Task], Images | None]:
    """The attack that a configuration names, on the bare `module`."""
    return PGD(config, module) if config.steps > 0 else no_attack

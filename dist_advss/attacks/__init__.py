"""How images are attacked: threat models (threat), projected gradient descent under them (pgd), and AutoAttack (autoattack)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..config.attack import Attack as AttackConfig
from .autoattack import AutoAttack
from .base import Attack, NoAttack
from .free import Free
from .pgd import PGD
from .short_apgd import APGD
from .sweep import RadiusSweep, StepSweep, Sweep
from .threat import L2, Linf, Threat

__all__ = [
    "L2",
    "PGD",
    "Attack",
    "AutoAttack",
    "Linf",
    "NoAttack",
    "Sweep",
    "Threat",
    "build",
    "build_pgd",
    "build_sweep",
]


def build(config: AttackConfig, module: nn.Module, couples_rows: bool = False) -> Attack:
    """The attack that a configuration names, on the bare `module`; `couples_rows` as in the objective's configuration."""
    if config.steps == 0:
        return NoAttack()
    if config.algorithm == "autoattack":
        return AutoAttack(config)  # type: ignore[return-value]  # it takes one tensor, not a tuple
    return build_pgd(config, module, couples_rows)  # type: ignore[return-value]  # X where X | None is allowed


def build_pgd(config: AttackConfig, module: nn.Module, couples_rows: bool = False) -> PGD:
    """`build` for an attack of projected steps: not for none, and not for AutoAttack."""
    kind = {"pgd": PGD, "apgd": APGD, "free": Free}[config.algorithm]
    return kind(config, module, couples_rows=couples_rows)


def build_sweep(config: AttackConfig, module: nn.Module, axis: str, points: Sequence[float]) -> Attack:
    """The attack at each of `points`, radii (axis "eps") or numbers of steps ("steps"), config's own among them; alone without any.

    For "steps" it must be one that `config.sweep.check_sweep` accepts.
    """
    if not points:
        return build(config, module)
    if axis == "steps":
        steps = [int(point) for point in points]
        return StepSweep(PGD(replace(config, steps=max(steps)), module), steps, config.steps)  # type: ignore[return-value]
    return RadiusSweep({eps: build(replace(config, eps=eps), module) for eps in points}, config.eps)  # type: ignore[return-value]

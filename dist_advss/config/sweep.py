"""The keys of `sweep`: robust accuracy against the radius of the attack, by one evaluation. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .keys import key, shown
from .suites import NONE


@dataclass
class Sweep:
    eps: list[float] = key(
        [],
        "radii to give RA at too, such as [2/255,4/255,16/255]; attack.eps is always one. In ascending order, each attacks "
        "only the images that the smaller ones left. []: attack.eps alone",
    )


def radii_of(config: Any) -> list[float]:
    """The radii of an evaluation that sweeps, ascending, attack.eps among them; [] for one without a sweep."""
    return sorted({*config.sweep.eps, config.attack.eps}) if config.sweep.eps else []


def check_sweep(config: Any) -> None:
    """The checks of `sweep.eps`. Raises UserError."""
    attack, asked = config.attack, config.sweep.eps
    if not asked:
        return
    text = f"sweep.eps=[{','.join(map(shown, asked))}]"
    if config.suite.name != NONE:
        raise UserError(f"{text}: suite={config.suite.name} has attacks of its own; drop it, or drop the suite")
    if attack.steps == 0:
        raise UserError(f"{text}: needs an attack; choose attack=pgd20_any or attack=autoattack, or drop it")
    for eps in asked:
        if eps <= 0:
            raise UserError(f"{text}: {shown(eps)} is not above 0; the sweep adds the clean images, eps=0, itself")
        if attack.norm == "linf" and eps > 1:
            raise UserError(
                f"{text}: {shown(eps)} is above 1, and images are in [0,1]; for 8 of 255 grey levels write 8/255"
            )
    if len(set(asked)) < len(asked):
        raise UserError(f"{text}: give each radius once")

"""The keys of `sweep`: robust accuracy against the radius of the attack, or its steps, by one evaluation. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..text import plural
from .keys import key, shown
from .suites import NONE

MOST_STEPS = 10_000  # as attack.steps
ENOUGH_STEPS = 5  # from here on attack.step_size=null does not depend on the number of steps


@dataclass
class Sweep:
    eps: list[float] = key(
        [],
        "radii to give RA at too, such as [2/255,4/255,16/255]; attack.eps is always one. In ascending order, each attacks "
        "only the images that the smaller ones left. []: attack.eps alone",
    )
    steps: list[int] = key(
        [],
        "numbers of PGD steps to give RA at too, such as [1,5,10,50], from one run with the largest; attack.steps is always "
        "one. Needs attack.keep=any, attack.restarts=1 and, below five steps, attack.step_size. []: attack.steps alone",
    )


def points_of(config: Any) -> tuple[str, list[Any]]:
    """What an evaluation sweeps, "eps" or "steps", and its points, ascending, the attack's own among them; ("", []) for no sweep."""
    for axis in ("eps", "steps"):
        asked = getattr(config.sweep, axis)
        if asked:
            return axis, sorted({*asked, getattr(config.attack, axis)})
    return "", []


def check_sweep(config: Any) -> None:
    """The checks of `sweep`. Raises UserError."""
    attack, (axis, _) = config.attack, points_of(config)
    if not axis:
        return
    asked = getattr(config.sweep, axis)
    text = f"sweep.{axis}=[{','.join(map(shown, asked))}]"
    if config.sweep.eps and config.sweep.steps:
        raise UserError(f"{text}: sweep.steps is set too; one evaluation sweeps one of them, so drop the other")
    if config.suite.name != NONE:
        raise UserError(f"{text}: suite={config.suite.name} has attacks of its own; drop it, or drop the suite")
    if attack.steps == 0:
        raise UserError(f"{text}: needs an attack; choose attack=pgd20_any or attack=autoattack, or drop it")
    if len(set(asked)) < len(asked):
        raise UserError(f"{text}: give each {'radius' if axis == 'eps' else 'number'} once")
    if axis == "eps":
        _check_radii(text, asked, attack)
    else:
        _check_steps(text, asked, attack)


def _check_radii(text: str, asked: list[float], attack: Any) -> None:
    for eps in asked:
        if eps <= 0:
            raise UserError(f"{text}: {shown(eps)} is not above 0; the sweep adds the clean images, eps=0, itself")
        if attack.norm == "linf" and eps > 1:
            raise UserError(
                f"{text}: {shown(eps)} is above 1, and images are in [0,1]; for 8 of 255 grey levels write 8/255"
            )


def _check_steps(text: str, asked: list[int], attack: Any) -> None:
    """Only what makes an attack with fewer steps the beginning of the one with more is accepted."""
    for steps in asked:
        if not 1 <= steps <= MOST_STEPS:
            raise UserError(f"{text}: {steps} is not from 1 to {MOST_STEPS}; the sweep adds the clean images itself")
    if attack.algorithm != "pgd":
        raise UserError(f"{text}: the steps of AutoAttack depend on their number; choose attack=pgd20_any")
    if attack.keep != "any":
        raise UserError(
            f"{text}: with attack.keep={attack.keep} an image that fell may stand again later; set attack.keep=any"
        )
    if attack.restarts > 1:
        raise UserError(
            f"{text}: with attack.restarts={attack.restarts} an image that falls late in its first start has no second one, and "
            "with fewer steps it would; set attack.restarts=1"
        )
    fewest = min(*asked, attack.steps)
    if attack.step_size is None and fewest < ENOUGH_STEPS:
        raise UserError(
            f"{text}: attack.step_size=null is eps/4, but more with {plural(fewest, 'step')} (below {ENOUGH_STEPS}); set one length "
            f"for all, such as attack.step_size={shown(attack.eps / 4)}"
        )

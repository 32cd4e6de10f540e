"""Which evaluations met the same threat on the same images, and which of their attacks is the strongest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...config.attack import CASCADE, PGD_SUITE
from ...runs.folders import lookup
from ...runs.metrics import number
from ...runs.read import Launch
from ...runs.settings import Setting, describe_ball
from ...runs.table import Row

QUERIES, PGD, PART, AUTOATTACK = range(4)  # kinds of attack, from weak to strong
WITHOUT_GRADIENTS = {"square"}
OF_THE_ATTACK = ("attack", "sweep.")  # begin the keys of a setting that say how the attacker searched


@dataclass(frozen=True, order=True)
class Strength:
    """Attacks in the order in which they are believed.

    kind:    AUTOATTACK with all four attacks of the standard cascade; PART, another cascade; PGD; QUERIES, a cascade that
             follows no gradient
    budget:  steps x restarts
    any_iterate: whether the attacker may choose among all iterates
    """

    kind: int
    budget: float
    any_iterate: bool = False


def strength(attack: Any) -> Strength | None:
    """The strength of an attack in a configuration or result; None for no attack and for what cannot be read."""
    steps = number(lookup(attack, "steps"))
    if not isinstance(attack, dict) or not steps:
        return None
    kind = PGD
    if attack.get("algorithm") == "autoattack":
        names = cascade_of(attack)
        kind = AUTOATTACK if names >= set(CASCADE) else PART if names - WITHOUT_GRADIENTS else QUERIES
    return Strength(kind, steps * (number(attack.get("restarts")) or 1), attack.get("keep") == "any")


def cascade_of(attack: Any) -> set[str]:
    """The names of the attacks in a cascade."""
    cascade = attack.get("cascade")
    return {str(name) for name in cascade} if isinstance(cascade, list) else set()


def stands_for_autoattack(attack: Any) -> bool:
    """Whether a cascade has an attack of AutoAttack that follows gradients. Square and PGD alone say nothing of the others."""
    return bool(cascade_of(attack) - WITHOUT_GRADIENTS - set(PGD_SUITE))


def strength_of(row: Row, launch: Launch) -> Strength | None:
    """The strength of an evaluation's attack."""
    return strength(_attack(row, launch))


def threat(row: Row, launch: Launch) -> Setting:
    """The setting with the ball in place of the attack: images, model and radius, however the attacker searched."""
    norm = str(lookup(_attack(row, launch), "norm", "linf"))
    others = tuple((name, value) for name, value in row.setting.others if not name.startswith(OF_THE_ATTACK))
    return replace(row.setting, attack=f"attacks, {describe_ball(norm, row.eps or 0.0)}", others=others)


def _attack(row: Row, launch: Launch) -> Any:
    run = launch.runs[row.evaluation]
    return run.result.get("attack") or lookup(run.config, "attack")

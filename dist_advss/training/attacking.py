"""The training attack of each step: it may grow over the first epochs, and change when the run rolls back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import attacks
from ..attacks import Attack
from ..attacks.pgd import step_size
from ..config.attack import Attack as AttackKeys
from ..config.overfitting import FALLBACK_STEPS
from ..config.schema import TrainConfig
from ..objectives import Objective
from .folding import FoldedParts, Folding


class TrainingAttack:
    """Builds the attack of a step on the bare `module`.

    keys       the attack that `at` gave last, as its configuration
    parts      the copies of parts of the module that it queries
    fallbacks  how many of overfitting.fallbacks are in use
    """

    def __init__(self, config: TrainConfig, module: Objective, steps_per_epoch: int) -> None:
        self.keys = config.attack
        self.fallbacks = 0
        self.parts = FoldedParts(config, module)
        self._config, self._module, self._steps_per_epoch = config, module, steps_per_epoch
        self._built: tuple[AttackKeys, Attack] | None = None

    def at(self, step: int) -> Attack:
        """The attack of step `step` of the run, counted from 0."""
        used = self._config.overfitting.fallbacks[: self.fallbacks]
        self.keys = fallen_back(self._config.attack, used, step, self._steps_per_epoch)
        if self._built is None or self._built[0] != self.keys:
            built = attacks.build(self.keys, self._module, self._config.objective.couples_rows)
            if self.keys.steps > 0 and self.keys.algorithm != "free":  # which has no passes of its own
                built = Folding(built, self.parts, self.keys.batch_norm)  # type: ignore[assignment]  # X where X | None is allowed
            self._built = self.keys, built
        return self._built[1]


def attack_at(attack: AttackKeys, step: int, steps_per_epoch: int) -> AttackKeys:
    """The attack with the radius and the number of steps that it has at step `step` of the run (counted from 0).

    The radius, and attack.step_size where it is set, grow at each step: at step t they are (t + 1) / (eps_ramp *
    steps_per_epoch) of the whole. The number of steps grows at each epoch: after e epochs it is 1 + (steps - 1) e / steps_ramp,
    rounded down.
    """
    grown = min(1.0, (step + 1) / (attack.eps_ramp * steps_per_epoch)) if attack.eps_ramp else 1.0
    if grown < 1:
        size = None if attack.step_size is None else attack.step_size * grown
        attack = replace(attack, eps=attack.eps * grown, step_size=size)
    epoch = step // steps_per_epoch
    if attack.steps > 1 and epoch < attack.steps_ramp:
        attack = replace(attack, steps=1 + int((attack.steps - 1) * epoch / attack.steps_ramp))
    return attack


def fallen_back(attack: AttackKeys, fallbacks: Sequence[str], step: int, steps_per_epoch: int) -> AttackKeys:
    """The attack at step `step` of the run, after the changes that `fallbacks` names in their order, as `attack_at` grows it.

    half_step halves the step that the attack has then: one of fewer steps goes further with each.
    """
    halvings = 0
    for name in fallbacks:
        if name == "half_step":
            halvings += 1
        else:
            attack, halvings = fallback(attack, name), 0
    attack = attack_at(attack, step, steps_per_epoch)
    return replace(attack, step_size=step_size(attack) / 2**halvings) if halvings else attack


def fallback(attack: AttackKeys, name: str) -> AttackKeys:
    """The attack nfgsm, pgd3 or pgd10 in place of another one, of the same norm and radius. It has all of its steps at once."""
    usual = AttackKeys()
    return replace(
        attack,
        algorithm=usual.algorithm,
        steps=FALLBACK_STEPS[name],
        steps_ramp=usual.steps_ramp,
        noise=2.0 if name == "nfgsm" else 0.0,
        step_size=usual.step_size,
        random_start=usual.random_start,
        clamp_start=usual.clamp_start,
        restarts=usual.restarts,
    )

"""The keys of the guard against catastrophic overfitting, and their checks. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError, nearest
from ..text import plural
from .keys import key

FALLBACK_STEPS = {"nfgsm": 1, "pgd3": 3, "pgd10": 10}  # the steps of the attacks to change to
FALLBACKS = ("half_step", *FALLBACK_STEPS)


@dataclass
class Overfitting:
    every: int = key(
        0,
        "check for catastrophic overfitting every N steps and at the end of each epoch; 0: no checks. A finding rolls the run "
        "back to the end of the last epoch",
        low=0,
    )
    gap: float = key(
        30.0,
        "it is found where RA under the training attack is higher than RA under PGD by more than this, in points; 100: record "
        "both, find nothing",
        low=1.0,
        high=100.0,
    )
    images: int = key(128, "use the first N held-out images in a check", low=1)
    steps: int = key(10, "steps of PGD in a check, within the eps of the training attack", low=2, high=10_000)
    fallbacks: list[str] = key(
        ["nfgsm", "pgd3"],
        "what changes at each rollback, in this order: half_step (half the step size), nfgsm, pgd3 or pgd10. A finding after the "
        "last one ends the run; []: so does the first",
    )


def check_overfitting(config: Any) -> None:
    """The checks of `overfitting` together with `attack`. Raises UserError."""
    keys, attack = config.overfitting, config.attack
    if not keys.every:
        return
    if attack.steps == 0:
        raise UserError(
            f"overfitting.every={keys.every}: compares the training attack with PGD, and attack=none has none; set it to 0"
        )
    text, steps, noise = f"overfitting.fallbacks=[{','.join(keys.fallbacks)}]", attack.steps, attack.noise
    for name in keys.fallbacks:
        if name not in FALLBACKS:
            raise UserError(f"{text}: {name}: not accepted; {nearest(name, FALLBACKS)}")
        if name == "half_step":
            continue
        if name == "nfgsm" and attack.norm != "linf":
            raise UserError(f"{text}: nfgsm knows attack.norm=linf only, not {attack.norm}; drop nfgsm")
        # A fallback to the attack that overfitted, or to one of fewer steps, would overfit again.
        if FALLBACK_STEPS[name] < steps or (FALLBACK_STEPS[name] == steps and (steps > 1 or noise)):
            before = "N-FGSM" if noise else f"an attack of {plural(steps, 'step')}"
            raise UserError(f"{text}: {name} is no stronger than {before}, which comes before it; drop {name}")
        steps, noise = FALLBACK_STEPS[name], 2.0 if name == "nfgsm" else 0.0

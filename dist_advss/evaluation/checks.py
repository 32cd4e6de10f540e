"""The questions of "is it real?": what was measured, whether it is as it must be, and what a failure means. No torch here.

A model whose gradients mislead an attack seems robust and is not (Athalye et al. 2018; Carlini et al. 2019, section 3).
The report asks the same questions about evaluations that were run for another reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

Verdict = Literal["pass", "fail", "not done"]

SLACK = 0.01  # of the images: two attacks that are equally strong differ by so many
LARGEST_GAP = 10.0  # points between PGD-20 and AutoAttack; 2 to 5 are usual, up to 8 are published for sound models
LARGEST_SQUARE = 0.02  # of the images may fall to queries alone
LARGEST_LAG = 2.0  # points of RA that at least as many steps again may still take
REACHES_ZERO = 0.01  # of the images may stand where the attacker may change everything

MEANINGS = {
    "finite outputs": "Some logits or gradients are NaN or infinite, and an attack does not move there. Look for a division by 0, log "
    "or sqrt in the model, or take another checkpoint.",
    "outputs are logits": "The outputs are probabilities, whose gradients vanish where the model is sure. Remove the softmax.",
    "scale of the logits": "The logits are so large that cross-entropy has no gradient in fp32, so PGD stands still. Divide them by a "
    "constant, or judge by AutoAttack's DLR loss.",
    "same image, same answer": "The answer depends on chance or on the other images of the batch. Switch off dropout and noise and use "
    "running statistics, or average over draws in the attack (cascade rand of AutoAttack).",
    "small changes count": "The model rounds its input, so its gradient is 0. Attack through a smooth stand-in for the rounding (BPDA).",
    "bf16 agrees with fp32": "Half precision gives other answers. Keep attack.precision=fp32, and do not quote RA from half precision.",
    "gradients are there": "Gradients are 0 for many images, as behind saturated units, so a gradient attack sees nothing. RA is "
    "too high: attack a smooth copy of the model, and quote Square.",
    "gradients lead uphill": "A step along the gradient raises the loss no more than a random one. Gradients are masked and RA is too "
    "high: quote AutoAttack with Square, and attack a smooth copy of the model.",
    "RA falls with eps to 0": "A larger radius must never help the model, and with all pixels free no image can stand. The attack "
    "does not find what is there: more steps and restarts, another loss, AutoAttack.",
    "PGD beats one step": "One step fools more images than twenty, so the gradient leads astray further on. RA is too high: quote "
    "AutoAttack.",
    "white box beats queries": "Square, which sees no gradient, fools images that gradient attacks could not. Gradients are masked: "
    "quote AutoAttack with all queries.",
    "PGD is near AutoAttack": "PGD overstates this model’s robustness. Quote AutoAttack in place of PGD.",
    "white box beats transfer": "Images found on another model fool this one more than its own attack does. Gradients are masked: "
    "quote the lower RA, and AutoAttack.",
    "PGD has converged": "Twice as many steps, or more, still fool many more images, so RA at fewer is too high. Quote RA at more steps, "
    "or AutoAttack.",
    "AutoAttack has no objection": "AutoAttack saw signs of masked gradients or of a random model. Run suite=sanity to see which.",
}


@dataclass(frozen=True)
class Check:
    """One answer.

    name     a key of MEANINGS
    figure   what was measured, in words; for "not done", why
    meaning  what a failure means and what to do
    """

    name: str
    verdict: Verdict
    figure: str

    @property
    def meaning(self) -> str:
        return MEANINGS[self.name]

    def as_record(self) -> dict[str, Any]:
        """As result.json has it."""
        return {**asdict(self), "meaning": self.meaning}


def answer(name: str, passed: bool, figure: str) -> Check:
    return Check(name, "pass" if passed else "fail", figure)


def skipped(names: Sequence[str], why: str) -> list[Check]:
    return [Check(name, "not done", why) for name in names]


def allowed(n: int) -> float:
    """How many points RA may be above that of a weaker attack: SLACK, and one of the n images at least."""
    return 100 * max(SLACK, 1.0001 / n)


def falls(points: Sequence[tuple[float, float]], n: int, free: float | None) -> Check:
    """RA in percent by radius, (eps, RA) with eps ascending. `free` is the RA where every pixel may be anything, if known."""
    rates = [ra for _, ra in points]
    monotone = all(later <= earlier + allowed(n) for earlier, later in pairwise(rates))
    zero = free is None or free <= 100 * max(REACHES_ZERO, 1.0001 / n)
    text = ", ".join(f"{ra:.1f} at eps {eps:.4g}" for eps, ra in points)
    return answer(
        "RA falls with eps to 0", monotone and zero, text + ("" if free is None else f", {free:.1f} with all free")
    )


def stronger(name: str, strong: tuple[str, float], weak: tuple[str, float], n: int) -> Check:
    """RA in percent under an attack that must be the stronger one, and under another, each with its name."""
    text = f"RA {strong[1]:.1f} under {strong[0]}, {weak[1]:.1f} under {weak[0]}"
    return answer(name, strong[1] <= weak[1] + allowed(n), text)


def queries(felled: int, n: int) -> Check:
    """`felled` images that no gradient attack fooled fell to Square."""
    text = f"Square fooled {felled} of {n} images that gradient attacks did not"
    return answer("white box beats queries", felled <= max(1.0, LARGEST_SQUARE * n), text)


def gap(pgd: tuple[str, float], autoattack: tuple[str, float]) -> Check:
    """RA in percent under PGD and under AutoAttack, each with its name."""
    points = round(pgd[1] - autoattack[1], 4)
    text = f"RA {pgd[1]:.1f} under {pgd[0]}, {autoattack[1]:.1f} under {autoattack[0]}: a gap of {points:.1f}"
    return answer("PGD is near AutoAttack", points <= LARGEST_GAP, text)


def converged(points: Sequence[tuple[float, float]]) -> Check | None:
    """RA in percent by number of steps of one PGD, ascending from 0: at most the half of the steps against all of them.

    None where no number but 0 is that small.
    """
    steps, ra = points[-1]
    earlier = [point for point in points if 0 < point[0] <= steps / 2]
    if not earlier:
        return None
    before, higher = earlier[-1]
    text = f"RA {higher:.1f} after {before:.0f} steps, {ra:.1f} after {steps:.0f}"
    return answer("PGD has converged", higher - ra <= LARGEST_LAG, text)


def same_in_half(full: tuple[str, float], half: tuple[str, float]) -> Check:
    """RA in percent of the same evaluation in fp32 and in half precision, each with its name."""
    text = f"RA {full[1]:.1f} in {full[0]}, {half[1]:.1f} in {half[0]}"
    return answer("bf16 agrees with fp32", abs(full[1] - half[1]) <= 100 * 2 * SLACK, text)

"""The effect of adversarial pre-training (P3→F4 against P1→F4) in points of TA and RA, and the sentence about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import numpy as np

from ...runs.table import Rate, Row
from .paired import Judged, judged, paired_interval


@dataclass(frozen=True)
class Difference:
    """A mean difference in points.

    low, high: the 95% interval; with several seeds, the lowest and highest difference; None where unknown
    paired:    whether the interval compares both models' verdicts image by image
    """

    value: float
    low: float | None
    high: float | None
    paired: bool = False

    @property
    def clear(self) -> bool | None:
        """Whether low and high are on the same side of zero; None where they are unknown."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{self.value:+.1f}{ends}".replace("-", "−")


@dataclass(frozen=True)
class Effect:
    """Adversarial pre-training on one task against none, or against standard; both with full adversarial fine-tuning."""

    task: str
    ra: Difference
    ta: Difference
    seeds: int
    n: int | None
    epochs_before: float | None
    epochs_after: float | None


def effects(rows: list[Row], before: Literal["P1", "P2"] = "P1") -> list[Effect]:
    """P3→F4 against `before`→F4, for each task and setting in which both have finished on the same number of images.

    Rows are paired by seed. A seed that only one side has is left out, unless each side has a single run. Ensembles are
    left out.
    """
    tuned = [row for row in rows if row.method.finetune == "F4" and not row.method.members and row.ta and row.ra]
    measured = []
    for setting in dict.fromkeys(row.setting for row in tuned):
        same = [row for row in tuned if row.setting == setting]
        for task in dict.fromkeys(row.method.task for row in same if row.method.pretrain == "P3"):
            olds = [r for r in same if r.method.pretrain == before and (before == "P1" or r.method.task == task)]
            news = [r for r in same if r.method.pretrain == "P3" and r.method.task == task]
            pairs = pair_by_seed(olds, news)
            if pairs:
                measured.append(_effect(str(task), pairs))
    return measured


def pair_by_seed(before: list[Row], after: list[Row]) -> list[tuple[Row, Row]]:
    """Finished evaluations of the same number of images, one pair for each seed that both have."""
    pairs = [
        (b, a)
        for b in before
        for a in after
        if (b.n, b.method.loss) == (a.n, a.method.loss) and (b.seed == a.seed or len(before) == len(after) == 1)
    ]
    firsts = {pair[0].seed: pair for pair in reversed(pairs)}  # a seed counts once, even if evaluated twice
    return [firsts[seed] for seed in sorted(firsts, key=lambda s: s or 0)]


def _effect(task: str, pairs: list[tuple[Row, Row]]) -> Effect:
    epochs = [
        (b.epochs_to_best_ra, a.epochs_to_best_ra) for b, a in pairs if b.epochs_to_best_ra and a.epochs_to_best_ra
    ]
    return Effect(
        task=task,
        ra=difference(pairs, "ra"),
        ta=difference(pairs, "ta"),
        seeds=len(pairs),
        n=pairs[0][0].n,
        epochs_before=mean(b for b, _ in epochs) if epochs else None,
        epochs_after=mean(a for _, a in epochs) if epochs else None,
    )


def difference(pairs: list[tuple[Row, Row]], rate: Literal["ta", "ra"]) -> Difference:
    """after - before of finished evaluations. One pair gives its 95% interval, several give the extremes over them."""
    before, after = pairs[0]
    old, new = _judged(before), _judged(after)
    if len(pairs) == 1 and old and new and np.array_equal(old.index, new.index):
        change = _rate(after, rate).value - _rate(before, rate).value
        return Difference(change, *paired_interval(old.right[rate], new.right[rate]), paired=True)
    return between([(_rate(before, rate), _rate(after, rate)) for before, after in pairs])


def between(pairs: list[tuple[Rate, Rate]]) -> Difference:
    """after - before of rates that are treated as independent. One pair gives its interval, several give the extremes."""
    each = [after.value - before.value for before, after in pairs]
    return Difference(mean(each), min(each), max(each)) if len(each) > 1 else Difference(each[0], *newcombe(*pairs[0]))


def _rate(row: Row, rate: Literal["ta", "ra"]) -> Rate:
    value = row.ta if rate == "ta" else row.ra
    assert value, "only finished evaluations are compared"
    return value


def _judged(row: Row) -> Judged | None:
    """The verdicts behind a row's rates; None where they are missing or give other rates."""
    verdicts = judged(row.folder)
    same = verdicts is not None and all(
        abs(100 * float(verdicts.right[name].mean()) - rate.value) < 0.06
        for name, rate in (("ta", row.ta), ("ra", row.ra))
        if rate
    )
    return verdicts if same else None


def newcombe(before: Rate, after: Rate) -> tuple[float | None, float | None]:
    """The 95% interval of after - before from the two rates' own intervals (Newcombe 1998, method 10), in points.

    It treats the rates as independent. For models judged on the same images `paired_interval` is narrower.
    """
    if before.interval is None or after.interval is None:
        return None, None
    difference = after.value - before.value
    down = math.hypot(after.value - after.interval[0], before.interval[1] - before.value)
    up = math.hypot(after.interval[1] - after.value, before.value - before.interval[0])
    return difference - down, difference + up


def sentence(effect: Effect) -> str:
    """The effect as a sentence, its numbers with their intervals."""
    lead = (
        f"Adversarial pre-training on {effect.task} {_moved(effect.ra)} robust accuracy by {_points(effect.ra, effect)} "
        f"and {_moved(effect.ta)} standard accuracy by {_points(effect.ta, effect)}, compared with no pre-training "
        "(P3→F4 against P1→F4)"
    )
    return f"{lead}{_caution(effect)}. {_sooner(effect)}".rstrip()


def clause(effect: Effect) -> str:
    """The effect as an item of a list, after the name of the task."""
    changes = [
        f"{name} {difference.value:+.1f}{_ends(difference, effect, 1)}".replace("-", "−")
        for name, difference in (("RA", effect.ra), ("TA", effect.ta))
    ]
    return f"{changes[0]}, {changes[1]} points{_caution(effect)}. {_sooner(effect)}".rstrip()


def _moved(difference: Difference) -> str:
    return "raised" if difference.value >= 0 else "lowered"


def _points(difference: Difference, effect: Effect) -> str:
    sign = 1 if difference.value >= 0 else -1
    average = " on average" if effect.seeds > 1 else ""
    return f"{abs(difference.value):.1f} points{average}{_ends(difference, effect, sign)}"


def _ends(difference: Difference, effect: Effect, sign: int) -> str:
    """ " (95% interval 9.0 to 17.7)", or the extremes over seeds; `sign` -1 turns a change into a loss."""
    if difference.low is None or difference.high is None:
        return ""
    low, high = sorted((sign * difference.low, sign * difference.high))
    if effect.seeds > 1:
        return f" ({low:.1f} to {high:.1f} over {effect.seeds} seeds)".replace("-", "−")
    return f" (95% interval {low:.1f} to {high:.1f})".replace("-", "−")


def _caution(effect: Effect) -> str:
    return "" if effect.ra.clear is not False else ". This is not a clear difference in robust accuracy"


def _sooner(effect: Effect) -> str:
    before, after = effect.epochs_before, effect.epochs_after
    if before is None or after is None:
        return ""
    if before == after:
        return f"Both reached their best validation RA after {after:.3g} epochs of fine-tuning."
    return f"Fine-tuning reached its best validation RA after {after:.3g} epochs instead of {before:.3g}."

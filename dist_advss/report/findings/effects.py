"""What the experiment measured, in a sentence: P3→F4 against P1→F4, in points of TA and RA."""

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
    """A mean difference in points. `low` and `high` are its 95% interval, or with several seeds the extremes over them.

    `paired` says that the interval is from both models' verdicts on the same images.
    """

    value: float
    low: float | None
    high: float | None
    paired: bool = False

    @property
    def clear(self) -> bool | None:
        """Whether low and high lie on one side of zero; None where there are none."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{self.value:+.1f}{ends}".replace("-", "−")


@dataclass(frozen=True)
class Effect:
    """Adversarial pre-training on one task against none or standard, both with full adversarial fine-tuning."""

    task: str
    ra: Difference
    ta: Difference
    seeds: int
    n: int | None
    epochs_before: float | None
    epochs_after: float | None


def effects(rows: list[Row], before: Literal["P1", "P2"] = "P1") -> list[Effect]:
    """P3→F4 against `before`→F4, one for each task and setting in which both have finished on the same number of images.

    Rows pair by seed; a seed that only one of the two has is left out, unless each has a single run. Ensembles are left out.
    """
    tuned = [row for row in rows if row.method.finetune == "F4" and not row.method.members and row.ta and row.ra]
    found = []
    for setting in dict.fromkeys(row.setting for row in tuned):
        here = [row for row in tuned if row.setting == setting]
        for task in dict.fromkeys(row.method.task for row in here if row.method.pretrain == "P3"):
            olds = [r for r in here if r.method.pretrain == before and (before == "P1" or r.method.task == task)]
            news = [r for r in here if r.method.pretrain == "P3" and r.method.task == task]
            pairs = paired(olds, news)
            if pairs:
                found.append(_effect(str(task), pairs))
    return found


def paired(before: list[Row], after: list[Row]) -> list[tuple[Row, Row]]:
    """Finished evaluations of the same number of images, one pair for each seed that both have."""
    pairs = [
        (b, a)
        for b in before
        for a in after
        if (b.n, b.method.loss) == (a.n, a.method.loss) and (b.seed == a.seed or len(before) == len(after) == 1)
    ]
    firsts = {pair[0].seed: pair for pair in reversed(pairs)}  # a seed counts once, whatever was evaluated twice
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
    """after - before of finished evaluations; of a single pair with its 95% interval, of several the extremes."""
    before, after = pairs[0]
    old, new = _judged(before), _judged(after)
    if len(pairs) == 1 and old and new and np.array_equal(old.index, new.index):
        change = _rate(after, rate).value - _rate(before, rate).value
        return Difference(change, *paired_interval(old.right[rate], new.right[rate]), paired=True)
    return between([(_rate(before, rate), _rate(after, rate)) for before, after in pairs])


def between(pairs: list[tuple[Rate, Rate]]) -> Difference:
    """after - before of rates that are taken as independent; the interval of a single pair, of several the extremes."""
    each = [after.value - before.value for before, after in pairs]
    return Difference(mean(each), min(each), max(each)) if len(each) > 1 else Difference(each[0], *newcombe(*pairs[0]))


def _rate(row: Row, rate: Literal["ta", "ra"]) -> Rate:
    found = row.ta if rate == "ta" else row.ra
    assert found, "only finished evaluations are compared"
    return found


def _judged(row: Row) -> Judged | None:
    """The verdicts behind a row's rates; None where they are not there, or not those that the rates were computed from."""
    found = judged(row.folder)
    same = found is not None and all(
        abs(100 * float(found.right[name].mean()) - rate.value) < 0.06
        for name, rate in (("ta", row.ta), ("ra", row.ra))
        if rate
    )
    return found if same else None


def newcombe(before: Rate, after: Rate) -> tuple[float | None, float | None]:
    """The 95% interval of after - before from the two rates' own intervals (Newcombe 1998, method 10), in points.

    It takes the rates as independent; for models judged on the same images `paired_interval` is narrower.
    """
    if before.interval is None or after.interval is None:
        return None, None
    difference = after.value - before.value
    down = math.hypot(after.value - after.interval[0], before.interval[1] - before.value)
    up = math.hypot(after.interval[1] - after.value, before.value - before.interval[0])
    return difference - down, difference + up


def sentence(effect: Effect) -> str:
    """The effect in plain words, the numbers with their intervals."""
    lead = (
        f"Adversarial pre-training on {effect.task} {_moved(effect.ra)} robust accuracy by {_points(effect.ra, effect)} "
        f"and {_moved(effect.ta)} standard accuracy by {_points(effect.ta, effect)}, compared with no pre-training "
        "(P3→F4 against P1→F4)"
    )
    return f"{lead}{_caution(effect)}. {_sooner(effect)}".rstrip()


def clause(effect: Effect) -> str:
    """The same for a list of several tasks, after the name of the task."""
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
    return "" if effect.ra.clear is not False else "; for robust accuracy this is not a clear difference"


def _sooner(effect: Effect) -> str:
    before, after = effect.epochs_before, effect.epochs_after
    if before is None or after is None:
        return ""
    if before == after:
        return f"Both reached their best validation RA after {after:.3g} epochs of fine-tuning."
    return f"Best validation RA came after {after:.3g} epochs of fine-tuning instead of {before:.3g}."

"""What the experiment measured, in a sentence: P3→F4 against P1→F4, in points of TA and RA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean

from .table import Rate, Row


@dataclass(frozen=True)
class Difference:
    """A mean difference in points. `low` and `high` are its 95% interval, or with several seeds the extremes over them."""

    value: float
    low: float | None
    high: float | None
    before: float
    after: float

    @property
    def clear(self) -> bool:
        """Whether low and high lie on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Effect:
    """Adversarial pre-training on one task against none, both with full adversarial fine-tuning."""

    task: str
    ra: Difference
    ta: Difference
    seeds: int
    n: int | None
    epochs_before: float | None
    epochs_after: float | None


def effects(rows: list[Row]) -> list[Effect]:
    """One for each task and setting in which P1→F4 and P3→F4 have both finished on the same number of images.

    Rows pair by seed; a seed that only one of the two has is left out, unless each has a single run.
    """
    tuned = [row for row in rows if row.method.finetune == "F4" and row.ta and row.ra]
    found = []
    for setting in dict.fromkeys(row.setting for row in tuned):
        here = [row for row in tuned if row.setting == setting]
        for task in dict.fromkeys(row.method.task for row in here if row.method.pretrain == "P3"):
            before = [row for row in here if row.method.pretrain == "P1"]
            after = [row for row in here if row.method.pretrain == "P3" and row.method.task == task]
            pairs = _pairs(before, after)
            if pairs:
                found.append(_effect(str(task), pairs))
    return found


def _pairs(before: list[Row], after: list[Row]) -> list[tuple[Row, Row]]:
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
        ra=_difference([(b.ra, a.ra) for b, a in pairs if b.ra and a.ra]),
        ta=_difference([(b.ta, a.ta) for b, a in pairs if b.ta and a.ta]),
        seeds=len(pairs),
        n=pairs[0][0].n,
        epochs_before=mean(b for b, _ in epochs) if epochs else None,
        epochs_after=mean(a for _, a in epochs) if epochs else None,
    )


def _difference(pairs: list[tuple[Rate, Rate]]) -> Difference:
    before, after = mean(b.value for b, _ in pairs), mean(a.value for _, a in pairs)
    if len(pairs) == 1:
        low, high = newcombe(*pairs[0])
    else:
        each = [a.value - b.value for b, a in pairs]
        low, high = min(each), max(each)
    return Difference(after - before, low, high, before, after)


def newcombe(before: Rate, after: Rate) -> tuple[float | None, float | None]:
    """The 95% interval of after - before from the two rates' own intervals (Newcombe 1998, method 10), in points.

    It takes the rates as independent. Both models saw the same images, so this is wider than need be.
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
    return "" if effect.ra.clear or effect.ra.low is None else "; for robust accuracy this is not a clear difference"


def _sooner(effect: Effect) -> str:
    before, after = effect.epochs_before, effect.epochs_after
    if before is None or after is None:
        return ""
    if before == after:
        return f"Both reached their best validation RA after {after:.3g} epochs of fine-tuning."
    return f"Best validation RA came after {after:.3g} epochs of fine-tuning instead of {before:.3g}."

"""The effect of adversarial pre-training (P3→F4 against P1→F4) in points of TA and RA, and the sentence about it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from ...runs.recipes import MOST_KEYS, more
from ...runs.table import Rate, Row, one_each
from .intervals import Interval, half_width, independent, left_of_images, over_seeds, paired
from .verdicts import Judged, judged


@dataclass(frozen=True)
class Difference:
    """A mean difference in points, or in epochs.

    low, high: the 95% interval, which one seed gives over images alone; None where unknown
    seeds:     how many pairs of runs it is the mean of
    paired:    whether the interval compares both models' verdicts image by image
    """

    value: float
    low: float | None
    high: float | None
    seeds: int = 1
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
    """Adversarial pre-training on one task against none, or against standard; both with full adversarial fine-tuning.

    epochs: of fine-tuning until the best validation RA, (before, after) for each seed that recorded both
    unlike: the keys in which the fine-tunings differ too, so that pre-training alone does not explain the effect
    """

    task: str
    ra: Difference
    ta: Difference
    seeds: int
    n: int | None
    epochs: tuple[tuple[int, int], ...]
    unlike: tuple[str, ...] = ()

    @property
    def epochs_before(self) -> float | None:
        return fmean(before for before, _ in self.epochs) if self.epochs else None

    @property
    def epochs_after(self) -> float | None:
        return fmean(after for _, after in self.epochs) if self.epochs else None

    @property
    def fewer_epochs(self) -> Difference | None:
        """By how many epochs the best validation RA came sooner; without an interval for one seed. None where unknown."""
        if not self.epochs:
            return None
        fewer = [float(before - after) for before, after in self.epochs]
        value, half = fmean(fewer), half_width(fewer, rounding=1.0)
        if len(fewer) == 1:
            return Difference(value, None, None)
        return Difference(value, value - half, value + half, seeds=len(fewer))


def effects(rows: list[Row], before: Literal["P1", "P2"] = "P1") -> list[Effect]:
    """P3→F4 against `before`→F4, for each task and setting in which both have finished.

    Ensembles are left out. Rows are paired by seed, and each recipe with the recipe of the baseline that is nearest to it.
    """
    tuned = [row for row in rows if row.method.finetune == "F4" and not row.method.members and row.ta and row.ra]
    measured = []
    for setting in dict.fromkeys(row.setting for row in tuned):
        same = [row for row in tuned if row.setting == setting]
        for name in dict.fromkeys(row.name for row in same if row.method.pretrain == "P3"):
            news = [row for row in same if row.name == name]
            task = news[0].method.task
            olds = [r for r in same if r.method.pretrain == before and (before == "P1" or r.method.task == task)]
            pairs = pair_by_seed(nearest(news[0], olds), news)
            if pairs:
                measured.append(_effect(news[0].task, pairs))
    return measured


def nearest(row: Row, others: list[Row]) -> list[Row]:
    """Of `others` those of one recipe: the one whose fine-tuning has the fewest other keys than that of `row`."""
    return _nearest(row, [other for other in others if other.method.loss == row.method.loss])


def _nearest(row: Row, others: list[Row]) -> list[Row]:
    by_name: dict[str, list[Row]] = {}
    for other in others:
        by_name.setdefault(other.name, []).append(other)
    return min(by_name.values(), key=lambda same: len(row.recipe.differing(same[0].recipe, own=True)), default=[])


def baseline_of(row: Row, rows: list[Row]) -> Row | None:
    """The finished P1→F4 with the same setting and seed, of the recipe that is nearest to that of `row`."""
    found = [
        r
        for r in rows
        if r.method.label == "P1→F4" and (r.setting, r.seed) == (row.setting, row.seed) and r.ta and r.ra
    ]
    return next(iter(_nearest(row, found)), None)


def pair_by_seed(before: list[Row], after: list[Row]) -> list[tuple[Row, Row]]:
    """Finished evaluations of one setting, one pair for each seed that both have; every model is in one pair at most.

    Runs with seeds of pre-training on both sides agree in these too. A single run on each side is a pair whatever its
    seed.
    """
    pairs: list[tuple[Row, Row]] = []
    taken: set[str] = set()
    alone = len(one_each(before)) == len(one_each(after)) == 1
    for new in after:
        for old in before:
            seeds = (old.recipe.seeds, new.recipe.seeds)
            same = seeds[0] == seeds[1] if len(seeds[0]) == len(seeds[1]) else old.seed == new.seed
            models = {old.tuned or old.evaluation, new.tuned or new.evaluation}
            if (same or alone) and old.setting == new.setting and not models & taken:
                taken |= models
                pairs.append((old, new))
                break
    return sorted(pairs, key=lambda pair: pair[0].seed or 0)


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
        epochs=tuple(epochs),
        unlike=unlike_keys(pairs),
    )


def unlike_keys(pairs: list[tuple[Row, Row]]) -> tuple[str, ...]:
    """The keys in which the fine-tunings of a pair differ, of all pairs."""
    return tuple(dict.fromkeys(key for a, b in pairs for key in a.recipe.differing(b.recipe, own=True)))


def difference(pairs: list[tuple[Row, Row]], rate: Literal["ta", "ra"]) -> Difference:
    """after - before of finished evaluations, one pair for each seed, with its interval over images and seeds."""
    rates = [(_rate(before, rate), _rate(after, rate)) for before, after in pairs]
    verdicts = [(judged_row(before), judged_row(after)) for before, after in pairs]
    together = [
        (old.right[rate], new.right[rate]) for old, new in verdicts if old and new and old.of_the_images_of(new)
    ]
    if len(together) < len(pairs):
        return between(rates)
    changes = [after.value - before.value for before, after in rates]
    over_images = [_around(change, paired(*masks)) for change, masks in zip(changes, together, strict=True)]
    same_size = len({len(old) for old, _ in together}) == 1
    common = left_of_images(*zip(*together, strict=True)) if same_size else 1.0
    low, high = over_seeds(changes, over_images, common)
    return Difference(fmean(changes), low, high, seeds=len(pairs), paired=True)


def _around(change: float, interval: Interval) -> Interval:
    """The interval, made to hold the change, which its rates were rounded to."""
    return min(change, interval[0]), max(change, interval[1])


def between(pairs: list[tuple[Rate, Rate]]) -> Difference:
    """after - before of rates that are treated as independent, one pair for each seed, with the interval over both."""
    changes = [after.value - before.value for before, after in pairs]
    over_images = [
        independent(before.value, before.interval, after.value, after.interval)
        for before, after in pairs
        if before.interval and after.interval
    ]
    if len(over_images) < len(pairs):
        return Difference(fmean(changes), None, None, seeds=len(pairs))
    low, high = over_seeds(changes, over_images)
    return Difference(fmean(changes), low, high, seeds=len(pairs))


def _rate(row: Row, rate: Literal["ta", "ra"]) -> Rate:
    value = row.ta if rate == "ta" else row.ra
    assert value, "only finished evaluations are compared"
    return value


def judged_row(row: Row) -> Judged | None:
    """The verdicts behind a row's rates; None where they are missing or give other rates."""
    verdicts = judged(row.folder)
    same = verdicts is not None and all(
        abs(100 * float(verdicts.right[name].mean()) - rate.value) < 0.06
        for name, rate in (("ta", row.ta), ("ra", row.ra))
        if rate
    )
    return verdicts if same else None


def sentence(effect: Effect) -> str:
    """The effect as a sentence, its numbers with their intervals."""
    lead = (
        f"Adversarial pre-training on {effect.task} {_moved(effect.ra)} robust accuracy by {_points(effect.ra, effect)} "
        f"and {_moved(effect.ta)} standard accuracy by {_points(effect.ta, effect)}, compared with no pre-training "
        "(P3→F4 against P1→F4)"
    )
    return f"{lead}{_cautions(effect)}. {_sooner(effect)}".rstrip()


def clause(effect: Effect) -> str:
    """The effect as an item of a list, after the name of the task."""
    changes = [
        f"{name} {difference.value:+.1f}{_ends(difference, 1)}".replace("-", "−")
        for name, difference in (("RA", effect.ra), ("TA", effect.ta))
    ]
    return f"{changes[0]}, {changes[1]} points{_cautions(effect)}. {_sooner(effect)}".rstrip()


def _moved(difference: Difference) -> str:
    return "raised" if difference.value >= 0 else "lowered"


def _points(difference: Difference, effect: Effect) -> str:
    sign = 1 if difference.value >= 0 else -1
    return f"{abs(difference.value):.1f} points{_ends(difference, sign)}"


def _ends(difference: Difference, sign: int) -> str:
    """ " (95% interval 9.0 to 17.7)"; `sign` -1 turns a change into a loss."""
    if difference.low is None or difference.high is None:
        return ""
    low, high = sorted((sign * difference.low, sign * difference.high))
    over = f" over {difference.seeds} seeds" if difference.seeds > 1 else ""
    return f" (95% interval {low:.1f} to {high:.1f}{over})".replace("-", "−")


def _cautions(effect: Effect) -> str:
    unlike = f". {also_differ(effect.unlike)}, so pre-training alone does not explain this" if effect.unlike else ""
    return unlike + ("" if effect.ra.clear else ". This is not a clear difference in robust accuracy")


def also_differ(keys: tuple[str, ...]) -> str:
    """The clause that names the keys in which fine-tunings differ."""
    return f"The fine-tunings also differ in {', '.join(keys[:MOST_KEYS])}{more(len(keys) - MOST_KEYS)}"


def one_seed(effects: list[Effect]) -> str:
    """What the intervals of effects leave out where one was measured with a single seed; "" otherwise."""
    if all(effect.seeds > 1 for effect in effects):
        return ""
    return (
        "With one seed an interval covers the choice of test images, not how much the result varies from seed to seed."
    )


def _sooner(effect: Effect) -> str:
    before, after = effect.epochs_before, effect.epochs_after
    if before is None or after is None:
        return ""
    if before == after:
        return f"Both reached their best validation RA after {after:.3g} epochs of fine-tuning."
    return f"Fine-tuning reached its best validation RA after {after:.3g} epochs instead of {before:.3g}."

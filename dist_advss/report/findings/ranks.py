"""The methods of a launch ranked by robust accuracy, as far as their order is no chance.

Every two methods of a ranking are compared by the paired interval of their difference, over the same images and the seeds
that both have. With "better" for an interval above zero, a method's

    rank          = 1 + the number of methods that are better
    rank interval = that rank to (methods - the number of methods that it is better than)

These are the ranks that the comparisons leave open (Goldstein and Spiegelhalter 1996, JRSS A 159:385; as sets of ranks from
pairwise intervals: Mogstad et al. 2024, Review of Economic Studies 91:476). To be told apart is not transitive: A may be
better than C while neither is told apart from B. Then A and B have rank 1 and C has rank 2.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from ...runs.methods import UNKNOWN
from ...runs.read import Launch
from ...runs.settings import Setting, captions, unlike
from ...runs.table import Rate, Row, one_each
from .attacks import strength_of, threat
from .effects import Difference, difference, judged_row, pair_by_seed
from .intervals import left_of_images, over_seeds

MOST_METHODS = 60  # of a ranking: 1,770 pairs
MOST_NAMES = 6  # in a line


@dataclass(frozen=True)
class Ranked:
    """A method of a ranking.

    rows:      its evaluations, one for each seed
    ra:        the mean over them, with its interval over images and seeds
    rank:      1 + the number of methods that are better
    worst:     the last rank that the comparisons leave open
    to_first:  RA(this) - RA(the first row of the table); None for that row, and without a common seed
    to_above:  the same against the row above
    """

    name: str
    rows: tuple[Row, ...]
    ra: Rate
    rank: int
    worst: int
    to_first: Difference | None
    to_above: Difference | None

    @property
    def ranks(self) -> str:
        """The rank interval: "1–2"."""
        return str(self.rank) if self.rank == self.worst else f"{self.rank}–{self.worst}"

    @property
    def seeds(self) -> str:
        """The seeds: "0, 1, 2"."""
        return ", ".join(row.seeds for row in self.rows)


@dataclass(frozen=True)
class Ranking:
    """Methods on the same images under the same attack, the best first.

    differences: [i][j] is RA(i) - RA(j); None on the diagonal and without a common seed
    notes:       who is not in the table, and why
    """

    setting: Setting
    caption: str
    n: int | None
    methods: list[Ranked]
    differences: list[list[Difference | None]]
    notes: list[str]

    @property
    def pairs(self) -> int:
        """How many pairs of methods were compared."""
        return sum(d is not None for line in self.differences for d in line) // 2

    @property
    def several_seeds(self) -> bool:
        """Whether a method has several evaluations."""
        return any(len(method.rows) > 1 for method in self.methods)

    @property
    def single(self) -> bool:
        """Whether a comparison has one seed, so that its interval leaves out how seeds differ."""
        return any(d.seeds == 1 for line in self.differences for d in line if d)

    @property
    def unpaired(self) -> bool:
        """Whether a comparison lacks the verdicts to pair the images."""
        return any(not d.paired for line in self.differences for d in line if d)


def rankings(launch: Launch, rows: list[Row]) -> list[Ranking]:
    """One ranking for each threat and set of images, under the strongest attack that two methods or more met.

    A weaker attack has a ranking too if it judged a method that is not in that one. `rows` have one radius for each model.
    """
    rated = [row for row in rows if row.ra and row.ta and strength_of(row, launch)]
    threats: dict[Setting, list[Row]] = {}
    for row in rated:
        threats.setdefault(threat(row, launch), []).append(row)
    texts = captions(row.setting for row in rated)
    found = []
    for met in sorted(threats.values(), key=lambda met: -len({_name(row) for row in met})):
        ranked: set[str] = set()
        for setting in _strongest_first(met, launch):
            same = [row for row in met if row.setting == setting]
            names = {_name(row) for row in same}
            if len(names) > 1 and not names <= ranked:
                found.append(_ranking(texts[setting], same, rated))
                ranked |= names
    if not found and len({_name(row) for row in rated}) > 1:
        # no two methods met the same: the lines say why
        setting = _strongest_first(rated, launch)[0]
        found = [_ranking(texts[setting], [row for row in rated if row.setting == setting], rated)]
    return [ranking for ranking in found if ranking.methods or ranking.notes]


def _strongest_first(rows: list[Row], launch: Launch) -> list[Setting]:
    """The settings of these evaluations, the strongest attack first, then the one that judged most."""
    counts = Counter(row.setting for row in rows)
    strengths = {row.setting: strength_of(row, launch) for row in rows}
    known = {setting: found for setting, found in strengths.items() if found}
    return sorted(known, key=lambda setting: (known[setting], counts[setting]), reverse=True)


def _name(row: Row) -> str:
    """The method. Where a part of it is unknown, the evaluation: two unknown methods may be different ones."""
    return row.evaluation if UNKNOWN in row.method.label or row.method.finetune is None else row.name


def _ranking(caption: str, rows: list[Row], every: list[Row]) -> Ranking:
    """The ranking of evaluations of one setting. `every`: of all settings, for the lines about those left out."""
    kept, notes = of_the_same_images(rows)
    methods: dict[str, list[Row]] = {}
    for row in one_each(kept):
        methods.setdefault(_name(row), []).append(row)
    means = {name: mean_rate(of, "ra") for name, of in methods.items()}
    names = sorted(methods, key=lambda name: (-means[name].value, name))
    if len(names) > MOST_METHODS:
        notes.append(
            f"The {MOST_METHODS} methods with the highest RA. The other {len(names) - MOST_METHODS} are not ranked."
        )
        names = names[:MOST_METHODS]

    # a rank counts the methods that are better, whatever their place in the order of means
    found = {(a, b): _compared(methods[b], methods[a]) for i, b in enumerate(names) for a in names[:i]}
    found |= {(b, a): _turned(d) for (a, b), d in found.items()}
    better = {pair for pair, d in found.items() if d and d.low is not None and d.low > 0}
    rank = {a: 1 + sum((b, a) in better for b in names) for a in names}
    worst = {a: len(names) - sum((a, b) in better for b in names) for a in names}
    names.sort(key=lambda name: (rank[name], -means[name].value, name))

    above = [None, *names]
    entries = [
        Ranked(
            name=name,
            rows=tuple(methods[name]),
            ra=means[name],
            rank=rank[name],
            worst=worst[name],
            to_first=found.get((name, names[0])),
            to_above=found.get((name, before)) if before else None,
        )
        for name, before in zip(names, above, strict=False)
    ]
    return Ranking(
        setting=rows[0].setting,
        caption=caption,
        n=rows[0].n if len({row.n for row in kept}) == 1 else None,
        methods=entries if len(entries) > 1 else [],
        differences=[[found.get((a, b)) for b in names] for a in names],
        notes=notes + _absent(rows, every),
    )


def of_the_same_images(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The evaluations whose verdicts are of the same images as most, or that have no verdicts; a line for each other one."""
    verdicts = {row.evaluation: judged_row(row) for row in rows}
    sets = {name: (v.index.tobytes(), v.label.tobytes()) for name, v in verdicts.items() if v}
    usual = Counter(sets.values()).most_common(1)[0][0] if sets else None
    kept = [row for row in rows if sets.get(row.evaluation, usual) == usual]
    odd = [row for row in rows if row not in kept]
    return kept, [f"{row.evaluation} ({_name(row)}) is left out: its verdicts are of other images." for row in odd]


def _compared(before: list[Row], after: list[Row]) -> Difference | None:
    """RA(after) - RA(before) over the seeds that both have; None without one."""
    pairs = pair_by_seed(before, after)
    return difference(pairs, "ra") if pairs else None


def _turned(found: Difference | None) -> Difference | None:
    if found is None:
        return None
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return Difference(-found.value, low, high, found.seeds, found.paired)


def mean_rate(rows: list[Row], name: Literal["ta", "ra"]) -> Rate:
    """The mean TA or RA of finished evaluations, one for each seed, with its interval over seeds and images."""
    rates = [rate for row in rows if (rate := row.ta if name == "ta" else row.ra)]
    values, intervals = [rate.value for rate in rates], [rate.interval for rate in rates if rate.interval]
    if len(intervals) < len(values):
        return Rate(fmean(values), None)
    verdicts = [judged_row(row) for row in rows]
    masks = [v.right[name] for v in verdicts if v]
    common = 1.0
    if len(masks) == len(values) and len({len(mask) for mask in masks}) == 1:
        common = left_of_images([np.zeros_like(mask) for mask in masks], masks)
    low, high = over_seeds(values, intervals, common)
    return Rate(fmean(values), (max(low, 0.0), min(high, 100.0)))


def _absent(rows: list[Row], every: list[Row]) -> list[str]:
    """A line for each other setting of the same data and model in which methods were judged that are not in `rows`."""
    setting, present = rows[0].setting, {_name(row) for row in rows}
    same = [
        r
        for r in every
        if (r.setting.data, r.setting.model, r.setting.labels) == (setting.data, setting.model, setting.labels)
    ]
    elsewhere: dict[Setting, dict[str, None]] = {}
    for row in same:
        if _name(row) not in present:
            elsewhere.setdefault(row.setting, {})[_name(row)] = None
    lines, told = [], set()
    for other, names in sorted(elsewhere.items(), key=lambda item: -len(item[1])):
        new = [name for name in names if name not in told]
        told |= set(new)
        if new:
            shown = ", ".join(new[:MOST_NAMES]) + (
                f" and {len(new) - MOST_NAMES} more" if len(new) > MOST_NAMES else ""
            )
            lines.append(f"Not in this table: {shown}, judged {_apart(other, setting)}.")
    return lines


def _apart(other: Setting, setting: Setting) -> str:
    """How another setting differs: "under PGD-20, l∞ eps 0.1 instead of AutoAttack, l∞ eps 0.1"."""
    words = [f"on {other.split} instead of {setting.split} images"] if other.split != setting.split else []
    another = other.attack != setting.attack
    words += [f"under {other.attack} instead of {setting.attack}"] if another else []
    # keys of two attacks differ anyway
    rest = unlike(other, setting, but=("attack.", "sweep.") if another else ())
    return ", ".join([*words, *(["with " + ", ".join(rest)] if rest else [])])

"""The results section: TA and RA of every evaluation by setting, with gains over no pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Literal

from ..config.protocols import PROTOCOLS
from ..runs.settings import Setting, captions
from ..runs.table import Row, one_each
from .charts.style import Chart
from .findings.effects import Difference, baseline_of, difference

KINDS = ("F1", "F2", "F3", "F4", *(protocol.title for protocol in PROTOCOLS.values()))


@dataclass(frozen=True)
class Comparison:
    """A row of the results table.

    baseline:         the evaluation of P1→F4 with the same seed; None without one
    gain_ta, gain_ra: over it
    best_ta, best_ra: whether the rate is the highest of its setting
    """

    row: Row
    baseline: Row | None
    gain_ta: Difference | None
    gain_ra: Difference | None
    best_ta: bool
    best_ra: bool


@dataclass(frozen=True)
class Matrix:
    """The paper's grid: a row for each pre-training and variant (P, task, cells), a column for each fine-tuning.

    A cell is (TA, RA) in percent, the mean over seeds, or None.
    """

    columns: list[str]
    rows: list[tuple[str, str, list[tuple[float, float] | None]]]


@dataclass(frozen=True)
class Group:
    """The evaluations of one setting. `caption` tells it from the other settings of the page. `n`: the number of images."""

    setting: Setting
    caption: str
    n: int | None
    comparisons: list[Comparison]
    several_seeds: bool
    matrix: Matrix | None


@dataclass(frozen=True)
class Results:
    """What the results section shows.

    paired, independent: whether any gain has a paired interval, or one for independent rates
    """

    groups: list[Group]
    scatters: dict[Setting, Chart]
    paired: bool
    independent: bool


def results(groups: list[Group], scatters: dict[Setting, Chart]) -> Results | None:
    """The section; None without any evaluation."""
    gains = [gain for group in groups for c in group.comparisons for gain in (c.gain_ta, c.gain_ra)]
    with_interval = [gain for gain in gains if gain and gain.low is not None]
    paired = any(gain.paired for gain in with_interval)
    independent = any(not gain.paired for gain in with_interval)
    return Results(groups, scatters, paired, independent) if groups else None


def group_rows(rows: list[Row]) -> list[Group]:
    """One group for each setting, the group with the most evaluations first."""
    groups = []
    texts = captions(row.setting for row in rows)
    for setting in dict.fromkeys(row.setting for row in rows):
        same_setting = [row for row in rows if row.setting == setting]
        counts = {row.n for row in same_setting if row.n is not None}
        groups.append(
            Group(
                setting=setting,
                caption=texts[setting],
                n=counts.pop() if len(counts) == 1 else None,
                comparisons=[_comparison(row, same_setting) for row in same_setting],
                several_seeds=len({row.seeds for row in same_setting if row.seed is not None}) > 1,
                matrix=_matrix(same_setting),
            )
        )
    return sorted(groups, key=lambda group: -len(group.comparisons))


def _comparison(row: Row, rows: list[Row]) -> Comparison:
    """One of the `rows` of a setting against its baseline."""
    baseline = None
    if row.method.label != "P1→F4":
        baseline = baseline_of(row, rows)
    pairs = [(baseline, row)] if baseline and row.ta and row.ra else []
    return Comparison(
        row=row,
        baseline=baseline,
        gain_ta=difference(pairs, "ta") if pairs else None,
        gain_ra=difference(pairs, "ra") if pairs else None,
        best_ta=_is_best(row, rows, "ta"),
        best_ra=_is_best(row, rows, "ra"),
    )


def _is_best(row: Row, rows: list[Row], name: Literal["ta", "ra"]) -> bool:
    """Whether the row has the highest rate of several."""
    rates = [rate.value for r in rows if (rate := getattr(r, name))]
    own = getattr(row, name)
    return own is not None and len(rates) > 1 and bool(own.value == max(rates))


def _matrix(rows: list[Row]) -> Matrix | None:
    """The grid of one setting; None with a single kind of fine-tuning, where the table already shows everything."""
    columns = sorted({row.method.label.partition("→")[2] for row in rows if row.method.finetune in KINDS})
    if len(columns) < 2:
        return None
    lines = []
    for pretrain, task in dict.fromkeys((row.method.pretrain, row.task) for row in rows):
        cells: list[tuple[float, float] | None] = []
        for column in columns:
            label = f"{pretrain}→{column}"
            rates = [
                (row.ta.value, row.ra.value)
                for row in one_each(rows)
                if row.ta and row.ra and (row.method.label, row.task) == (label, task)
            ]
            cells.append((mean(ta for ta, _ in rates), mean(ra for _, ra in rates)) if rates else None)
        lines.append((pretrain, task, cells))
    return Matrix(columns, lines)

"""The section on RA by class."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from ..runs.folders import lookup
from ..runs.read import Launch, Run, number
from ..runs.table import Row, full_names
from ..text import one_line

MOST_CLASSES = 30


@dataclass(frozen=True)
class PerClass:
    """RA in percent, or None, by class (rows) and evaluation (columns: stage and method).

    left_out: how many classes are not shown
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[float | None]]]
    left_out: int


def per_class(launch: Launch, rows: list[Row]) -> PerClass | None:
    """The evaluations that recorded RA by class; with many classes, those of the lowest mean RA. None without any."""
    columns = []
    full = full_names(rows)
    table: dict[str, dict[str, float]] = {}  # class, then stage
    for row in rows:
        by_class = _ra_by_class(launch.runs[row.evaluation]) if row.state == "finished" else {}
        for name, ra in by_class.items():
            table.setdefault(name, {})[row.evaluation] = ra
        if by_class:
            columns.append((row.evaluation, full[row.evaluation]))
    if not columns:
        return None
    names = list(table)
    if len(names) > MOST_CLASSES:
        names = sorted(names, key=lambda name: mean(table[name].values()))[:MOST_CLASSES]
    lines = [(name, [table[name].get(stage) for stage, _ in columns]) for name in names]
    return PerClass(columns, lines, left_out=len(table) - len(names))


def _ra_by_class(run: Run) -> dict[str, float]:
    """RA in percent by class name, from the result; entries that are damaged are skipped."""
    entries = run.result.get("per_class")
    rates = {}
    for entry in entries if isinstance(entries, list) else []:
        ra = number(lookup(entry, "ra"))
        if ra is not None:
            rates[one_line(str(lookup(entry, "class", "?")), 80)] = ra
    return rates

"""Evaluations of one model under one attack at several radii."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...runs.methods import Method
from ...runs.table import Rate, Row, Setting

CLEAN = "clean"  # the evaluation that the point at radius 0 is taken from is any of the curve's


@dataclass(frozen=True)
class Curve:
    """Accuracy of one fine-tuned model by radius: (eps, rate, evaluation), eps ascending from 0, where it is TA."""

    name: str
    method: Method
    points: list[tuple[float, Rate, str]]


@dataclass(frozen=True)
class Sweep:
    """Curves that can be compared: one setting but for the radius, which `setting.attack` leaves out."""

    setting: Setting
    curves: list[Curve]

    @property
    def radii(self) -> list[float]:
        """Every radius of any curve, ascending."""
        return sorted({eps for curve in self.curves for eps, _, _ in curve.points})


def sweeps(rows: list[Row]) -> list[Sweep]:
    """Of each setting the models that were attacked, with a result, at two radii or more."""
    found: dict[Setting, list[Curve]] = {}
    for (setting, _), here in _families(rows).items():
        by_eps = {row.eps: row for row in reversed(here) if row.eps and row.ra}
        if len(by_eps) < 2:
            continue
        first = next(row for row in here if row.eps in by_eps)
        points = [(eps, row.ra, row.evaluation) for eps, row in sorted(by_eps.items()) if eps and row.ra]
        if first.ta:
            points.insert(0, (0.0, first.ta, CLEAN))
        name = first.method.full + (f", seed {first.seed}" if first.seed else "")
        found.setdefault(setting, []).append(Curve(name, first.method, points))
    return [Sweep(setting, curves) for setting, curves in found.items()]


def main(rows: list[Row]) -> list[Row]:
    """The rows without those that are there for a curve only: of a model's radii, the one it was trained for stays.

    Where it was not judged at that radius, the largest one stays.
    """
    aside: set[str] = set()
    for here in _families(rows).values():
        radii = {row.eps for row in here if row.eps}
        kept = here[0].trained_eps if here[0].trained_eps in radii else max(radii, default=None)
        aside |= {row.evaluation for row in here if len(radii) > 1 and row.eps != kept}
    return [row for row in rows if row.evaluation not in aside]


def _families(rows: list[Row]) -> dict[tuple[Setting, str], list[Row]]:
    """Rows that differ in nothing but the radius."""
    found: dict[tuple[Setting, str], list[Row]] = {}
    for row in rows:
        if row.tuned and row.family:
            found.setdefault((replace(row.setting, attack=row.family), row.tuned), []).append(row)
    return found

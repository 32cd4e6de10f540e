"""One model under one attack at several radii: separate evaluations, or one with sweep.eps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...runs.methods import Method
from ...runs.settings import Setting, captions
from ...runs.table import Rate, Row

CLEAN = "clean"  # named as the evaluation at radius 0: every evaluation of the curve has the same TA
GREY_LEVELS = 255


@dataclass(frozen=True)
class Curve:
    """Accuracy of one fine-tuned model by radius: points (eps, rate, evaluation), eps ascending. At eps 0 the rate is TA."""

    name: str
    method: Method
    points: list[tuple[float, Rate, str]]


@dataclass(frozen=True)
class Sweep:
    """Curves that can be compared: they share a setting except for the radius, which `setting.attack` leaves out.

    caption: what tells the setting from those of the other sweeps
    """

    setting: Setting
    caption: str
    curves: list[Curve]

    @property
    def radii(self) -> list[float]:
        """Every radius of any curve, ascending."""
        return sorted({eps for curve in self.curves for eps, _, _ in curve.points})

    @property
    def scale(self) -> tuple[float, str]:
        """The factor by which radii are multiplied to be shown, and their unit: "/255" where all are whole grey levels."""
        levels = [GREY_LEVELS * eps for eps in self.radii]
        whole = all(abs(level - round(level)) < 1e-3 for level in levels)
        return (GREY_LEVELS, "/255") if whole else (1.0, "")


def sweeps(rows: list[Row]) -> list[Sweep]:
    """One sweep for each setting, of the models that have finished evaluations at two radii or more.

    An evaluation with sweep.eps has its curve itself.
    """
    curves: dict[Setting, list[Curve]] = {}
    for (setting, _), family in _families(rows).items():
        swept = next((row for row in family if row.sweep), None)
        if swept:
            of_sweep = [(eps, rate, swept.evaluation) for eps, rate in swept.sweep]
            curves.setdefault(setting, []).append(Curve(_name(swept), swept.method, of_sweep))
            continue
        by_eps = {row.eps: row for row in reversed(family) if row.eps and row.ra}
        if len(by_eps) < 2:
            continue
        first = next(row for row in family if row.eps in by_eps)
        points = [(eps, row.ra, row.evaluation) for eps, row in sorted(by_eps.items()) if eps and row.ra]
        if first.ta:
            points.insert(0, (0.0, first.ta, CLEAN))
        curves.setdefault(setting, []).append(Curve(_name(first), first.method, points))
    texts = captions(setting for setting, of_setting in curves.items() for _ in of_setting)
    return [Sweep(setting, texts[setting], of_setting) for setting, of_setting in curves.items()]


def _name(row: Row) -> str:
    return row.name + (f", seed {row.seeds}" if row.seed else "")


def at_one_radius(rows: list[Row]) -> list[Row]:
    """The rows with one radius for each model: the one it was trained for, else the largest that it was evaluated at."""
    left_out: set[str] = set()
    for family in _families(rows).values():
        radii = {row.eps for row in family if row.eps}
        trained = family[0].trained_eps
        chosen = trained if trained in radii else max(radii, default=None)
        left_out |= {row.evaluation for row in family if len(radii) > 1 and row.eps != chosen}
    return [row for row in rows if row.evaluation not in left_out]


def _families(rows: list[Row]) -> dict[tuple[Setting, str], list[Row]]:
    """Rows that differ only in the radius, by setting and fine-tuned run."""
    families: dict[tuple[Setting, str], list[Row]] = {}
    for row in rows:
        if row.tuned and row.family:
            families.setdefault((replace(row.setting, attack=row.family), row.tuned), []).append(row)
    return families

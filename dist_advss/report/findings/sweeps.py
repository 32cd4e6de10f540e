"""One model under one attack at several radii, by separate evaluations or by one with sweep.eps; or after several steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...config.keys import grey_levels
from ...runs.methods import Method
from ...runs.settings import Setting, captions
from ...runs.table import Rate, Row

CLEAN = "clean"  # named as the evaluation at radius 0: every evaluation of the curve has the same TA
GREY_LEVELS = 255


@dataclass(frozen=True)
class Curve:
    """Accuracy of one fine-tuned model: points (eps or steps, rate, evaluation), ascending. At 0 the rate is TA."""

    name: str
    method: Method
    points: list[tuple[float, Rate, str]]


@dataclass(frozen=True)
class Sweep:
    """Curves that can be compared: they share a setting except for the axis, which `setting.attack` leaves out.

    axis:    "eps", the radius of the attack, or "steps", their number
    caption: what tells the setting from those of the other sweeps
    """

    axis: str
    setting: Setting
    caption: str
    curves: list[Curve]

    @property
    def points(self) -> list[float]:
        """Every radius, or number of steps, of any curve, ascending."""
        return sorted({at for curve in self.curves for at, _, _ in curve.points})

    @property
    def scale(self) -> tuple[float, str]:
        """The factor by which points are multiplied to be shown, and their unit: "/255" for radii of whole grey levels.

        Radii such as 0.2 and 0.4 alone are decimals, as they were written.
        """
        levels = [GREY_LEVELS * at for at in self.points]
        whole = self.axis == "eps" and all(abs(level - round(level)) < 1e-3 for level in levels)
        written = any(grey_levels(at, within=1e-3) for at in self.points)
        return (GREY_LEVELS, "/255") if whole and written else (1.0, "")


def sweeps(rows: list[Row]) -> list[Sweep]:
    """Those over radii first, then those over steps."""
    return [*_over_radii(rows), *_over_steps(rows)]


def _over_radii(rows: list[Row]) -> list[Sweep]:
    """One sweep for each setting, of the models that have finished evaluations at two radii or more.

    An evaluation with sweep.eps has its curve itself.
    """
    curves: dict[Setting, list[Curve]] = {}
    for (setting, _), family in _families(rows).items():
        own = next((curve for row in family if (curve := _own(row, "eps"))), None)
        if own:
            curves.setdefault(setting, []).append(own)
            continue
        by_eps = {row.eps: row for row in reversed(family) if row.eps and row.ra}
        if len(by_eps) < 2:
            continue
        first = next(row for row in family if row.eps in by_eps)
        points = [(eps, row.ra, row.evaluation) for eps, row in sorted(by_eps.items()) if eps and row.ra]
        if first.ta:
            points.insert(0, (0.0, first.ta, CLEAN))
        curves.setdefault(setting, []).append(Curve(_name(first), first.method, points))
    return _by_setting("eps", curves)


def _over_steps(rows: list[Row]) -> list[Sweep]:
    """One sweep for each setting, of the evaluations with sweep.steps; of one model that was judged twice, the first."""
    found: dict[tuple[Setting, str], Curve] = {}
    for row in rows:
        own = _own(row, "steps")
        if own and row.sweep:
            found.setdefault((replace(row.setting, attack=row.sweep.attack), row.tuned or row.evaluation), own)
    curves: dict[Setting, list[Curve]] = {}
    for (setting, _), curve in found.items():
        curves.setdefault(setting, []).append(curve)
    return _by_setting("steps", curves)


def _own(row: Row, axis: str) -> Curve | None:
    """The curve of an evaluation that swept this axis itself."""
    if row.sweep is None or row.sweep.axis != axis:
        return None
    return Curve(_name(row), row.method, [(at, rate, row.evaluation) for at, rate in row.sweep.points])


def _by_setting(axis: str, curves: dict[Setting, list[Curve]]) -> list[Sweep]:
    texts = captions(setting for setting, of_setting in curves.items() for _ in of_setting)
    return [Sweep(axis, setting, texts[setting], of_setting) for setting, of_setting in curves.items()]


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

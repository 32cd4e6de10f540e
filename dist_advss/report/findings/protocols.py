"""The fine-tuning protocols beside each other: a row for each pre-training, and for each protocol TA, RA and their gap."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from ...runs.methods import UNKNOWN, Method
from ...runs.read import Launch
from ...runs.recipes import BEFORE, Recipe, variants
from ...runs.settings import Setting, captions
from ...runs.table import Rate, Row, one_each
from .attacks import AUTOATTACK, PGD, strength_of, threat
from .effects import Difference, difference, judged_row
from .ranks import mean_rate, of_the_same_images

ORDER = ("F1", "SLF", "F2", "ALF", "F3", "F4", "AFF", "AFF+")  # from what changes least to what changes most
FORM = Literal["models", "ta", "pgd", "autoattack", "gap"]
# fmt: off
HEADINGS: dict[FORM, str] = {
    "models": "seeds", "ta": "TA %", "pgd": "RA %, PGD", "autoattack": "RA %, AutoAttack", "gap": "PGD − AutoAttack",
}
# fmt: on


@dataclass(frozen=True)
class Cell:
    """A pre-training under one protocol: means over the same models, those that AutoAttack judged if it judged any.

    gap: RA under PGD minus RA under AutoAttack, of models whose verdicts are of the same images
    """

    ta: Rate
    pgd: Rate | None
    autoattack: Rate | None
    gap: Difference | None
    models: int


@dataclass(frozen=True)
class Beside:
    """One table: the models of a data set and labels, on the same images within the same ball.

    caption:   the images and the ball
    attacks:   the names of both attacks, each the one of its kind that judged most models, the strongest of equals
    protocols: the columns, each with the numbers that any of its cells has
    rows:      (method, task, cells)
    partial:   whether AutoAttack judged some seeds of a cell, and others not
    notes:     evaluations that are left out, and why
    """

    caption: str
    attacks: list[str]
    protocols: list[tuple[str, list[FORM]]]
    rows: list[tuple[str, str, list[Cell | None]]]
    partial: bool
    notes: list[str]

    @property
    def headings(self) -> dict[FORM, str]:
        return HEADINGS


def protocols(launch: Launch, rows: list[Row]) -> list[Beside]:
    """One table for each threat and set of images with two protocols, or with PGD and AutoAttack. `rows`: one radius a model."""
    rated = [row for row in rows if row.ra and row.ta and strength_of(row, launch)]
    threats: dict[Setting, list[Row]] = {}
    for row in rated:
        threats.setdefault(threat(row, launch), []).append(row)
    texts = captions(threats)
    tables = [_table(launch, texts[met], of_threat) for met, of_threat in threats.items()]
    found = [table for table in tables if table]
    return sorted(found, key=lambda table: -len(table.rows))


def _table(launch: Launch, caption: str, rows: list[Row]) -> Beside | None:
    """The table of one threat; None where there is nothing to put beside each other."""
    pgd, autoattack = _usual(rows, launch, PGD), _usual(rows, launch, AUTOATTACK)
    judged, notes = of_the_same_images([row for row in rows if row.setting in (pgd, autoattack)])
    columns, lines = _columns(judged), _lines(judged)
    placed: dict[tuple[tuple[str, str], str], list[Row]] = {}
    for row in judged:
        if row.evaluation in columns:
            placed.setdefault((lines[row.evaluation], columns[row.evaluation]), []).append(row)
    cells, partial = {}, False
    for place, of_place in placed.items():
        weak = one_each([row for row in of_place if row.setting == pgd])
        strong = one_each([row for row in of_place if row.setting == autoattack])
        cells[place] = _cell(weak, strong)
        partial |= bool(strong) and len(strong) < len(weak)
    names = sorted({column for _, column in cells}, key=_order)
    if len(names) < 2 and not any(cell.gap for cell in cells.values()):
        return None
    # the numbers that a column has; how many models each is the mean of only where that differs
    several = len({cell.models for cell in cells.values()}) > 1
    forms = {name: [form for form in HEADINGS if form != "models" or several] for name in names}
    for name in names:
        own = [cell for (_, column), cell in cells.items() if column == name]
        forms[name] = [form for form in forms[name] if any(getattr(cell, form) for cell in own)]
    order = {lines[row.evaluation]: row.method.order for row in reversed(judged)}
    found = sorted({line for line, _ in cells}, key=lambda line: (line[0] == UNKNOWN, *order[line], line))
    table = [(*line, [cells.get((line, name)) for name in names]) for line in found]
    attacks = [setting.attack for setting in (pgd, autoattack) if setting]
    return Beside(caption, attacks, list(forms.items()), table, partial, notes)


def _usual(rows: list[Row], launch: Launch, kind: int) -> Setting | None:
    """The setting whose attack of this kind judged most models, the strongest of equals. None without any."""
    found = {row.setting: s for row in rows if (s := strength_of(row, launch)) and s.kind == kind}
    models = Counter(row.setting for row in rows)
    return max(found, key=lambda setting: (models[setting], found[setting]), default=None)


def _cell(weak: list[Row], strong: list[Row]) -> Cell:
    """The cell of evaluations under PGD and under AutoAttack; each model is in each list once at most."""
    # all numbers are of the same models
    both = [(a, b) for a in strong for b in weak if _model(a) == _model(b)]
    shown_strong = [a for a, _ in both] or strong
    shown_weak = [b for _, b in both] if strong else weak
    together = bool(both) and all(judged_row(row) for pair in both for row in pair)
    counted = shown_strong or shown_weak
    return Cell(
        ta=mean_rate(counted, "ta"),
        pgd=mean_rate(shown_weak, "ra") if shown_weak else None,
        autoattack=mean_rate(shown_strong, "ra") if shown_strong else None,
        gap=difference(both, "ra") if together else None,
        models=len(counted),
    )


def _model(row: Row) -> tuple[object, ...]:
    return row.tuned or row.evaluation, row.recipe


def _columns(rows: list[Row]) -> dict[str, str]:
    """The protocol of each evaluation whose fine-tuning is known, with what tells its keys from others of that protocol."""
    by_name: dict[str, dict[str, Recipe]] = {}
    for row in rows:
        if row.method.finetune not in (None, UNKNOWN):
            own = tuple((k, v) for k, v in row.recipe.keys if not k.startswith(BEFORE))
            by_name.setdefault(_protocol(row.method), {})[row.evaluation] = Recipe(own)
    found: dict[str, str] = {}
    for name, recipes in by_name.items():
        texts = variants(recipes.values())
        found |= {evaluation: ", ".join(filter(None, (name, texts[r]))) for evaluation, r in recipes.items()}
    return found


def _protocol(method: Method) -> str:
    """ "F4", "F4 (trades)", or the name of a protocol."""
    return replace(method, pretrain="").label.removeprefix("→")


def _lines(rows: list[Row]) -> dict[str, tuple[str, str]]:
    """The pre-training of each evaluation: P1 to P3, and the task with what tells its recipe from others of that task."""
    by_name: dict[tuple[str, str], dict[str, Recipe]] = {}
    for row in rows:
        # two unknown pre-trainings may be different ones
        task = row.evaluation if row.method.pretrain == UNKNOWN else row.method.task or ""
        before = tuple((k, v) for k, v in row.recipe.keys if k.startswith(BEFORE))
        by_name.setdefault((row.method.pretrain, task), {})[row.evaluation] = Recipe(before)
    found: dict[str, tuple[str, str]] = {}
    for (pretrain, task), recipes in by_name.items():
        texts = variants(recipes.values())
        found |= {name: (pretrain, ", ".join(filter(None, (task, texts[r])))) for name, r in recipes.items()}
    return found


def _order(column: str) -> tuple[int, str]:
    first = column.partition(" ")[0].rstrip(",")
    return (ORDER.index(first) if first in ORDER else len(ORDER), column)

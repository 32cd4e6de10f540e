"""The section on unforeseen attacks: accuracies from the result.json of `unforeseen` runs, and pictures of the attacks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...arrays import read_arrays
from ...config.unforeseen import STRENGTHS, UNFORESEEN
from ...runs.judged import Changed, judged_images
from ...runs.models import Model, judged_model, names_apart
from ...runs.read import Launch, Run, number
from ...runs.recipes import variants_of
from ...runs.settings import captions, filled, value_text
from ..images import MOST_BYTES, png
from .transfers import Heat

PICTURES = 2  # images of a run on the page
_Judged = tuple[Model, dict[str, list[float | None]]]  # a model, and its line of the table by strength


@dataclass(frozen=True)
class Picture:
    """An image as PNG data URI, and the attack that made it, or "clean"."""

    name: str
    uri: str


@dataclass(frozen=True)
class Table:
    """The models judged under the same conditions: a row for each strength, and pictures from the first of them that has some."""

    heat: Heat
    pictures: list[list[Picture]]


def attacked(launch: Launch) -> list[Table]:
    """One table for each set of conditions: a row a model and strength, a column an attack, in percent.

    The first columns are TA and the mean over the attacks (UA2, at medium strength). A result without rates that can be
    read is left out.
    """
    finished = [run for run in launch.runs.values() if run.command == "unforeseen" and run.state == "finished"]
    variants = variants_of(launch) if finished else {}
    judged: list[tuple[Run, Changed, _Judged]] = []
    for run in finished:
        rates, ta = _rates(run.result.get("accuracy"), run.result.get("strengths")), number(run.result.get("ta"))
        if not rates or ta is None:
            continue
        lines: dict[str, list[float | None]] = {}
        for strength, by_kind in rates.items():
            values = list(by_kind.values())
            lines[strength] = [ta, sum(values) / len(values), *values]
        model = judged_model(run, launch, variants)
        judged.append((run, _conditions(run, tuple(next(iter(rates.values())))), (model, lines)))
    same = filled(conditions for _, conditions, _ in judged)
    groups: list[_Group] = []
    for run, conditions, of_model in judged:
        new = _Group(same[conditions])
        group = next((group for group in groups if group.takes(new.conditions, _calibration(run))), new)
        if group is new:
            groups.append(group)
        group.calibration |= _calibration(run)
        group.runs.append(run)
        group.judged.append(of_model)
    texts = captions(group.known for group in groups)
    return [
        Table(
            Heat(texts[group.known], "model, strength", ["TA", "mean", *group.conditions.kinds], group.rows),
            next((pictures for pictures in map(_pictures, group.runs) if pictures), []),
        )
        for group in groups
    ]


@dataclass
class _Group:
    """Runs of equal conditions. calibration: how strong an attack is at each strength that one of them judged."""

    conditions: Changed
    calibration: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    judged: list[_Judged] = field(default_factory=list)

    def takes(self, conditions: Changed, calibration: dict[str, str]) -> bool:
        """Whether a run belongs here. Runs that judged other strengths do, and runs with other values of the same ones do not."""
        equal = all(self.calibration.get(name, value) == value for name, value in calibration.items())
        return equal and conditions == self.conditions

    @property
    def rows(self) -> list[tuple[str, list[float | None]]]:
        """A line for each model and strength."""
        names = names_apart([model for model, _ in self.judged])
        return [
            (f"{name}, {strength}", line)
            for name, (_, lines) in zip(names, self.judged, strict=True)
            for strength, line in lines.items()
        ]

    @property
    def known(self) -> Changed:
        """The conditions with the calibration."""
        return replace(self.conditions, others=(*self.conditions.others, *self.calibration.items()))


def _rates(accuracy: Any, strengths: Any) -> dict[str, dict[str, float]]:
    """Accuracy by strength and known attack; {} for anything else."""
    if not isinstance(accuracy, dict) or not isinstance(strengths, list) or not strengths:
        return {}
    if any(strength not in STRENGTHS for strength in strengths if isinstance(strength, str)):
        return {}
    lines = {kind: accuracy[kind] for kind in UNFORESEEN if isinstance(accuracy.get(kind), list)}
    rates: dict[str, dict[str, float]] = {}
    for i, strength in enumerate(strengths):
        for kind, line in lines.items():
            rate = number(line[i]) if len(line) == len(strengths) else None
            if rate is None or not isinstance(strength, str):
                return {}
            rates.setdefault(strength, {})[kind] = rate
    return rates


def _conditions(run: Run, kinds: tuple[str, ...]) -> Changed:
    """What must be equal for two rows to be compared."""
    n, steps, seed = (number(run.result.get(name)) for name in ("n", "steps", "seed"))
    data = run.config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    known = n is not None and steps is not None and seed is not None
    title = f"{name}, {run.result.get('split')}, {n:g} images, {steps:g} steps, seed {seed:g}" if known else str(name)
    return Changed(title, kinds, others=tuple(judged_images(run.config, run.result, run.made_from, kinds).items()))


def _calibration(run: Run) -> dict[str, str]:
    """How strong each attack is, `{"fog low": "0.18", …}`, of those that the run has recorded."""
    values, strengths = (run.result.get(name) for name in ("values", "strengths"))
    if not isinstance(values, dict) or not isinstance(strengths, list):
        return {}
    rows = {kind: values[kind] for kind in UNFORESEEN if isinstance(values.get(kind), list)}
    return {
        f"{kind} {strength}": value_text(value)
        for kind, row in rows.items()
        for strength, value in zip(strengths, row, strict=False)
    }


def _pictures(run: Run) -> list[list[Picture]]:
    """The first images as they are and under each attack; [] where the file is missing, damaged or does not fit together."""
    try:
        arrays = read_arrays(run.path / "samples" / "unforeseen.npz", MOST_BYTES)
        clean, changed, kinds = (arrays[name] for name in ("clean", "attacked", "kinds"))
    except (OSError, ValueError, LookupError):
        return []
    if clean.ndim != 4 or clean.shape[-1] not in (1, 3) or clean.size == 0 or kinds.ndim != 1:
        return []
    if changed.shape != (len(kinds), *clean.shape) or any(a.dtype.kind != "f" for a in (clean, changed)):
        return []
    names = [str(kind) for kind in kinds]
    if any(name not in UNFORESEEN for name in names):
        return []
    lines = []
    for i in range(min(PICTURES, len(clean))):
        line = [Picture("clean", png(clean[i].astype(np.float32)))]
        line += [Picture(name, png(changed[k, i].astype(np.float32))) for k, name in enumerate(names)]
        lines.append(line)
    return lines

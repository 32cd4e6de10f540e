"""The section on unforeseen attacks: accuracies from the result.json of `unforeseen` runs, and pictures of the attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arrays import read_arrays
from ...config.unforeseen import STRENGTHS, UNFORESEEN
from ...runs.methods import model_of
from ...runs.read import Launch, Run, number
from ...runs.recipes import variants_of
from ..images import MOST_BYTES, png
from .transfers import Heat

PICTURES = 2  # images of a run on the page


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
    tables: dict[tuple[str, tuple[str, ...]], tuple[list[Run], list[tuple[str, list[float | None]]]]] = {}
    for run in finished:
        rates, ta = _rates(run.result.get("accuracy"), run.result.get("strengths")), number(run.result.get("ta"))
        if not rates or ta is None:
            continue
        name = model_of(run, run.config.get("checkpoint"), launch, variants).name
        runs, rows = tables.setdefault((_conditions(run), tuple(next(iter(rates.values())))), ([], []))
        runs.append(run)
        for strength, by_kind in rates.items():
            values = list(by_kind.values())
            rows.append((f"{name}, {strength}", [ta, sum(values) / len(values), *values]))
    return [
        Table(
            Heat(title, "model, strength", ["TA", "mean", *kinds], rows),
            next((pictures for pictures in map(_pictures, runs) if pictures), []),
        )
        for (title, kinds), (runs, rows) in tables.items()
    ]


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


def _conditions(run: Run) -> str:
    """What must be equal for two rows to be compared, as text."""
    n, steps, seed = (number(run.result.get(name)) for name in ("n", "steps", "seed"))
    data = run.config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if n is None or steps is None or seed is None:
        return str(name)
    return f"{name}, {run.result.get('split')}, {n:g} images, {steps:g} steps, seed {seed:g}"


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

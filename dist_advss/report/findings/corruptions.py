"""The corruptions section: accuracy of each model under each corruption, from the result.json of `corruptions` runs."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ...config.corruptions import CORRUPTIONS
from ...runs.methods import model_of
from ...runs.read import Launch, Run, number
from ...runs.recipes import variants_of
from .transfers import Heat


def corrupted(launch: Launch) -> list[Heat]:
    """One table for each set of conditions: a row a model, a column a corruption (mean over its severities), in percent.

    The first columns are TA and the mean over all corruptions. The row of a run with a baseline names its mCE. A result without
    rates that can be read is left out.
    """
    finished = [run for run in launch.runs.values() if run.command == "corruptions" and run.state == "finished"]
    variants = variants_of(launch) if finished else {}
    tables: dict[tuple[str, tuple[str, ...]], list[tuple[str, list[float | None]]]] = {}
    for run in finished:
        means = _means(run.result.get("accuracy"))
        ta, mean, mce = (number(run.result.get(name)) for name in ("ta", "mean", "mce"))
        if not means or ta is None or mean is None:
            continue
        name = model_of(run, run.config.get("checkpoint"), launch, variants).name
        of_baseline = "" if mce is None else f", mCE {mce:.1f}"
        row: tuple[str, list[float | None]] = (name + of_baseline, [ta, mean, *means.values()])
        tables.setdefault((_conditions(run), tuple(means)), []).append(row)
    return [
        Heat(title, "model", ["TA", "mean", *(kind.replace("_", " ") for kind in kinds)], rows)
        for (title, kinds), rows in tables.items()
    ]


def _means(accuracy: Any) -> dict[str, float]:
    """The mean accuracy over the severities by known kind; {} for anything else."""
    if not isinstance(accuracy, dict):
        return {}
    rates = {
        kind: [number(rate) for rate in accuracy[kind]] for kind in CORRUPTIONS if isinstance(accuracy.get(kind), list)
    }
    return {kind: fmean(r for r in row if r is not None) for kind, row in rates.items() if row and None not in row}


def _conditions(run: Run) -> str:
    """What must be equal for two rows to be compared, as text."""
    n, severities = number(run.result.get("n")), run.result.get("severities")
    data = run.config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    source = "published images" if run.config.get("published") else f"seed {run.result.get('seed')}"
    levels = ", ".join(str(level) for level in severities[:5]) if isinstance(severities, list) else "unknown"
    return f"{name}, {run.result.get('split')}, {n:g} images, severities {levels}, {source}" if n else str(name)

"""The corruptions section: accuracy of each model under each corruption, from the result.json of `corruptions` runs."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ...config.corruptions import CORRUPTIONS
from ...runs.judged import Changed, judged_images
from ...runs.models import Model, judged_model, names_apart
from ...runs.read import Launch, Run, number
from ...runs.recipes import variants_of
from ...runs.settings import captions, filled
from .transfers import Heat


def corrupted(launch: Launch) -> list[Heat]:
    """One table for each set of conditions: a row a model, a column a corruption (mean over its severities), in percent.

    The first columns are TA and the mean over all corruptions. The row of a run with a baseline names its mCE. A result without
    rates that can be read is left out.
    """
    finished = [run for run in launch.runs.values() if run.command == "corruptions" and run.state == "finished"]
    variants = variants_of(launch) if finished else {}
    judged: list[tuple[Changed, Model, str, list[float | None]]] = []
    for run in finished:
        means = _means(run.result.get("accuracy"))
        ta, mean, mce = (number(run.result.get(name)) for name in ("ta", "mean", "mce"))
        if not means or ta is None or mean is None:
            continue
        model, of_baseline = judged_model(run, launch, variants), "" if mce is None else f", mCE {mce:.1f}"
        judged.append((_conditions(run, tuple(means)), model, of_baseline, [ta, mean, *means.values()]))
    same = filled(conditions for conditions, *_ in judged)
    texts = captions(same[conditions] for conditions, *_ in judged)
    tables = []
    for conditions in dict.fromkeys(same[conditions] for conditions, *_ in judged):
        of_table = [row for row in judged if same[row[0]] == conditions]
        names = names_apart([model for _, model, _, _ in of_table])
        rows = [(name + more, rates) for name, (_, _, more, rates) in zip(names, of_table, strict=True)]
        columns = ["TA", "mean", *(kind.replace("_", " ") for kind in conditions.kinds)]
        tables.append(Heat(texts[conditions], "model", columns, rows))
    return tables


def _means(accuracy: Any) -> dict[str, float]:
    """The mean accuracy over the severities by known kind; {} for anything else."""
    if not isinstance(accuracy, dict):
        return {}
    rates = {
        kind: [number(rate) for rate in accuracy[kind]] for kind in CORRUPTIONS if isinstance(accuracy.get(kind), list)
    }
    return {kind: fmean(r for r in row if r is not None) for kind, row in rates.items() if row and None not in row}


def _conditions(run: Run, kinds: tuple[str, ...]) -> Changed:
    """What must be equal for two rows to be compared."""
    n, severities = number(run.result.get("n")), run.result.get("severities")
    data = run.config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    source = "published images" if run.config.get("published") else f"seed {run.result.get('seed')}"
    levels = ", ".join(str(level) for level in severities[:5]) if isinstance(severities, list) else "unknown"
    title = f"{name}, {run.result.get('split')}, {n:g} images, severities {levels}, {source}" if n else str(name)
    return Changed(title, kinds, others=tuple(judged_images(run.config, run.result, run.made_from, kinds).items()))

"""The corruptions section: accuracy of each model under each corruption, from the result.json of `corruptions` runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ...config.corruptions import CORRUPTIONS
from ...runs.judged import Changed, judged_images
from ...runs.models import Model, judged_model, names_apart
from ...runs.read import Launch, Run, number
from ...runs.recipes import variants_of
from ...runs.settings import captions, filled
from .transfers import Heat


@dataclass(frozen=True)
class _Against:
    """The mCE of a run, and the folder and the errors of the baseline that it is relative to.

    A run of an earlier version has no errors; the folder tells its baseline apart.
    """

    mce: float
    baseline: str
    errors: str

    def text(self, named: bool) -> str:
        return f", mCE {self.mce:.1f}" + (f" against {Path(self.baseline).name}" if named else "")


def corrupted(launch: Launch) -> list[Heat]:
    """One table for each set of conditions: a row a model, a column a corruption (mean over its severities), in percent.

    The first columns are TA and the mean over all corruptions. The row of a run with a baseline names its mCE, and the
    baseline where the table has several. A result without rates that can be read is left out.
    """
    finished = [run for run in launch.runs.values() if run.command == "corruptions" and run.state == "finished"]
    variants = variants_of(launch) if finished else {}
    judged: list[tuple[Changed, Model, _Against | None, list[float | None]]] = []
    for run in finished:
        means = _means(run.result.get("accuracy"))
        ta, mean, mce = (number(run.result.get(name)) for name in ("ta", "mean", "mce"))
        if not means or ta is None or mean is None:
            continue
        against = (
            None
            if mce is None
            else _Against(
                mce, str(run.config.get("baseline")), str(run.result.get("baseline") or run.config.get("baseline"))
            )
        )
        model = judged_model(run, launch, variants)
        judged.append((_conditions(run, tuple(means)), model, against, [ta, mean, *means.values()]))
    same = filled(conditions for conditions, *_ in judged)
    texts = captions(same[conditions] for conditions, *_ in judged)
    tables = []
    for conditions in dict.fromkeys(same[conditions] for conditions, *_ in judged):
        of_table = [row for row in judged if same[row[0]] == conditions]
        names = names_apart([model for _, model, _, _ in of_table])
        several = len({against.errors for *_, against, _ in of_table if against}) > 1
        rows = [
            (name + (against.text(several) if against else ""), rates)
            for name, (_, _, against, rates) in zip(names, of_table, strict=True)
        ]
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

"""Tables coloured by accuracy, and the one of common corruptions, read from result.json in percent:

{"kind": "corruptions", "checkpoint": RUN, "severities": [1, …, 5], "accuracy": {"gaussian_noise": [a1, …, a5], …}, "ta": …}
    a1: accuracy on images so corrupted, at the first severity
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean

from ...runs.methods import model_of
from ...runs.read import Launch, number


@dataclass(frozen=True)
class Heat:
    """Percentages, or None, by row and column; `corner` says what rows and columns are."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[float | None]]]

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest value, between which the colours are spread."""
        values = [value for _, line in self.rows for value in line if value is not None]
        return min(values, default=0.0), max(values, default=0.0)

    def share(self, value: float) -> float:
        """Where a value stands in the span, 0 to 100."""
        low, high = self.span
        return 100 * (value - low) / (high - low) if high > low else 50.0


def corruptions(launch: Launch) -> tuple[Heat | None, list[Heat]]:
    """Mean accuracy over severities by corruption and model, and each model by corruption and severity."""
    models: list[Heat] = []
    for run in launch.runs.values():
        accuracy = run.result.get("accuracy")
        if run.result.get("kind") != "corruptions" or not isinstance(accuracy, dict):
            continue
        rows = [(str(k), [number(v) for v in line]) for k, line in accuracy.items() if isinstance(line, list) and line]
        width = max((len(line) for _, line in rows), default=0)
        rows = [(kind, line + [None] * (width - len(line))) for kind, line in rows]
        said = run.result.get("severities")
        severities = said if isinstance(said, list) and len(said) == width else range(1, width + 1)
        if rows:
            name = model_of(run, run.result.get("checkpoint"), launch).name
            models.append(Heat(name, "severity →", [str(s) for s in severities], [*rows, _mean_of(rows)]))
    if not models:
        return None, []
    columns = [model.title for model in models]
    kinds = dict.fromkeys(kind for model in models for kind, _ in model.rows[:-1])
    means = [{kind: _mean(line) for kind, line in model.rows[:-1]} for model in models]
    rows = [(kind, [of.get(kind) for of in means]) for kind in kinds]
    return replace(
        models[0], title="", corner="mean over severities", columns=columns, rows=[*rows, _mean_of(rows)]
    ), models


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return mean(there) if there else None


def _mean_of(rows: list[tuple[str, list[float | None]]]) -> tuple[str, list[float | None]]:
    return "mean", [_mean(list(column)) for column in zip(*(line for _, line in rows), strict=True)]

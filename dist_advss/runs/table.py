"""The evaluations of a launch folder as rows, and the rows as a table for the terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..text import aligned
from .folders import lookup
from .methods import Method, finetune_of, method_of
from .metrics import number
from .read import Launch, Run, read
from .state import State

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Rate:
    """A rate in percent with its 95% interval, or None if the result has no interval."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        low_high = f" [{self.interval[0]:.1f}, {self.interval[1]:.1f}]" if self.interval else ""
        return f"{self.value:.1f}{low_high}"


@dataclass(frozen=True)
class Setting:
    """The conditions of a fine-tuning and its evaluation. Rows are compared only within one setting."""

    data: str
    model: str
    labels: int | None
    split: str
    attack: str

    def __str__(self) -> str:
        labels = f"{self.labels:,} labels" if self.labels else "all labels"
        return f"{self.data}, {self.model}, {labels}; {self.split} images under {self.attack}"


@dataclass(frozen=True)
class Row:
    """One evaluation. TA, RA and n are None until it has finished.

    epochs_to_best_ra: epochs of fine-tuning completed when validation RA was highest (so far, if it is still running)
    folder:            of the evaluation
    tuned:             the fine-tuned run that was evaluated, by stage or path; None if it cannot be found
    family:            the attack without its radius
    eps, trained_eps:  radius of the attack, and of the one in fine-tuning
    """

    evaluation: str
    method: Method
    state: State
    setting: Setting
    seed: int | None
    ta: Rate | None
    ra: Rate | None
    n: int | None
    epochs_to_best_ra: int | None
    folder: Path
    tuned: str | None
    family: str
    eps: float | None
    trained_eps: float | None


def summary_rows(directory: Path) -> list[Row]:
    """One row for each evaluation of a launch folder, P1 first, then task by task. Raises UserError without any run."""
    return rows_of(read(directory, time.time()))


def rows_of(launch: Launch) -> list[Row]:
    """The rows of a launch that is already read."""
    rows = [_row(run, launch) for run in launch.runs.values() if run.command == "evaluate"]
    return sorted(rows, key=lambda row: (str(row.setting), row.method.order, row.seed or 0, row.evaluation))


def as_text(rows: list[Row]) -> str:
    """The rows as aligned lines, for log files."""
    return aligned(_cells(row, rows) for row in rows)


def as_table(rows: list[Row]) -> Table:
    """The rows as a rich table, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table("method", "TA %", "RA %", "epochs to best RA", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        method, ta, ra, epochs = _cells(row, rows)
        plain = (method, ta.removeprefix("TA "), ra.removeprefix("RA "), epochs.partition(": ")[2])
        table.add_row(*map(Text, plain))  # Text, because a stage's name is not markup
    return table


def _cells(row: Row, rows: list[Row]) -> tuple[str, str, str, str]:
    """The texts of one of `rows`. The attack is part of the name if the rows differ in it."""
    name = row.method.full if row.method.finetune != "?" else row.evaluation
    name += f" seed {row.seed}" if row.seed else ""
    name += f", {row.setting.attack}" if len({other.setting.attack for other in rows}) > 1 else ""
    if row.ta is None or row.ra is None:
        return (name, row.state, "", "")
    epochs = "–" if row.epochs_to_best_ra is None else str(row.epochs_to_best_ra)
    return (name, f"TA {row.ta}", f"RA {row.ra}", f"epochs to best RA: {epochs}")


def _row(run: Run, launch: Launch) -> Row:
    tuned = finetune_of(run, launch)
    labels = number(lookup(tuned.config if tuned else {}, "data.labels"))
    seed = number(lookup(tuned.config if tuned else {}, "seed"))
    n = number(run.result.get("n"))
    configs = [run.config, tuned.config if tuned else {}]
    together = lookup(run.config, "model.name") == "ensemble" and not lookup(run.config, "checkpoint")
    if run.planned or together:  # data and model are those of the checkpoint, or of the members
        configs.reverse()
    attack = run.result.get("attack") or lookup(run.config, "attack")
    setting = Setting(
        data=_first(configs, "data.name"),
        model=_first(configs, "model.name"),
        labels=None if labels is None else int(labels),
        split=str(run.result.get("split") or lookup(run.config, "split", "test")),
        attack=describe_attack(attack),
    )
    return Row(
        evaluation=run.stage,
        method=method_of(run, launch),
        state=run.state,
        setting=setting,
        seed=None if seed is None else int(seed),
        ta=_rate(run, "ta"),
        ra=_rate(run, "ra"),
        n=None if n is None else int(n),
        epochs_to_best_ra=best_ra_epoch(tuned) if tuned and not together else None,
        folder=run.path,
        tuned=None if tuned is None else tuned.stage if tuned.stage in launch.runs else str(tuned.path),
        family=f"{describe_attack({**attack, 'eps': None})}, {_norm(attack)}" if isinstance(attack, dict) else "",
        eps=number(lookup(attack, "eps")),
        trained_eps=number(lookup(tuned.config if tuned else {}, "attack.eps")),
    )


def _first(configs: list[dict[str, Any]], name: str) -> str:
    found = (lookup(config, name) for config in configs)
    return next((str(value) for value in found if value), "unknown")


def _rate(run: Run, name: str) -> Rate | None:
    value, interval = number(run.result.get(name)), run.result.get(f"{name}_interval")
    if value is None:
        return None
    ends = [number(end) for end in interval] if isinstance(interval, list) else []
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        return Rate(value, (ends[0], ends[1]))
    return Rate(value, None)


def best_ra_epoch(run: Run) -> int | None:
    """Epochs completed when validation RA was highest, the first of equals; None before the first validation."""
    said = number(lookup(run.result, "best_ra.epoch"))
    if said is not None:
        return int(said)
    lines = run.metrics.validation
    ra = np.where(np.isnan(lines.column("epoch")), np.nan, lines.column("ra"))
    return None if np.isnan(ra).all() else int(lines.column("epoch")[np.nanargmax(ra)])


def describe_attack(attack: Any) -> str:
    """`{"norm": "linf", "eps": 0.0314, "steps": 20, …}` as "PGD-20, l∞ eps 8/255"."""
    if not isinstance(attack, dict):
        return "an unknown attack"
    steps, eps = number(attack.get("steps")), number(attack.get("eps"))
    restarts, norm = number(attack.get("restarts")) or 1, str(attack.get("norm", "linf"))
    name = str(attack.get("name") or ("no attack" if steps == 0 else f"PGD-{steps:g}" if steps else "PGD"))
    radius = "" if eps is None else f", {describe_ball(norm, eps)}"
    more = f", {restarts:g} restarts" if restarts > 1 else ""
    return name + radius + more + (", any iterate" if attack.get("keep") == "any" else "")


def describe_ball(norm: str, eps: float) -> str:
    """ "l∞ eps 8/255" or "l2 eps 0.5"."""
    grey = eps * 255
    radius = f"{round(grey)}/255" if abs(grey - round(grey)) < 1e-3 and grey >= 0.5 else f"{eps:g}"
    return f"{_norm({'norm': norm})} eps {radius}"


def _norm(attack: dict[str, Any]) -> str:
    norm = str(attack.get("norm", "linf"))
    return "l∞" if norm == "linf" else norm

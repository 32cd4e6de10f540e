"""What a method costs: epochs to robust accuracy, and the device time of pre-training and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .methods import finetune_of, follow
from .runs import Launch, Run, lookup, number
from .table import Row


@dataclass(frozen=True)
class Cost:
    """Of one evaluated model; None where it is not known or never came to be.

    pretrain, finetune:  seconds, times the processes that shared them; None for P1's pre-training
    to_best:             epochs of fine-tuning until validation RA was highest
    target:              the highest validation RA of P1→F4 in the same setting
    to_baseline:         epochs until validation RA was that high
    seconds_to_baseline: `finetune` up to there, and `pretrain`
    """

    row: Row
    pretrain: float | None
    finetune: float | None
    to_best: int | None
    target: float | None
    to_baseline: int | None
    seconds_to_baseline: float | None


@dataclass(frozen=True)
class Costs:
    """Costs of the rows of a launch. `devices` says of what the time is: "GPU", "process" or "processes and GPUs"."""

    devices: str
    costs: list[Cost]


def costs(launch: Launch, rows: list[Row]) -> Costs | None:
    """One for each finished row whose fine-tuning can be found, each model once; None where there is no such row."""
    tuned = {row.evaluation: finetune_of(launch.runs[row.evaluation], launch) for row in rows if row.ra}
    targets: dict[tuple[object, ...], float] = {}
    for row in rows:
        run = tuned.get(row.evaluation)
        best = None if run is None else best_ra(run)
        if row.method.label == "P1→F4" and best is not None:
            targets[_match(row)] = best
    found: dict[str, Cost] = {}
    used: list[Run] = []
    for row in rows:
        run = tuned.get(row.evaluation)
        if run is not None and str(run.path) not in found:
            init = lookup(run.config, "init")
            origin = follow(run, str(init), launch) if init else None
            used += [r for r in (run, origin) if r]
            found[str(run.path)] = _cost(row, run, origin, targets.get(_match(row)))
    kinds = {on_gpu(run) for run in used}
    devices = "GPU" if kinds == {True} else "process" if kinds == {False} else "processes and GPUs"
    return Costs(devices, list(found.values())) if found else None


def _match(row: Row) -> tuple[object, ...]:
    """What a baseline has to share with a row: attack and label counts stand in the setting."""
    return (row.setting, row.seed)


def _cost(row: Row, run: Run, origin: Run | None, target: float | None) -> Cost:
    before, after = device_seconds(origin) if origin else None, device_seconds(run)
    epochs = number(run.result.get("epochs"))
    reached = None if target is None else epochs_to(run, target)
    seconds = None
    if reached is not None and after is not None and epochs:
        seconds = after * reached / epochs + (before or 0.0)
    return Cost(row, before, after, row.epochs_to_best_ra, target, reached, seconds)


def best_ra(run: Run) -> float | None:
    """The highest validation RA in percent."""
    ra = run.metrics.validation.column("ra")
    return None if np.isnan(ra).all() else float(np.nanmax(ra))


def epochs_to(run: Run, target: float) -> int | None:
    """Whole epochs after which validation RA was `target` or more for the first time."""
    lines = run.metrics.validation
    there = np.flatnonzero((lines.column("ra") >= target) & ~np.isnan(lines.column("epoch")))
    return int(lines.column("epoch")[there[0]]) if len(there) else None


def device_seconds(run: Run) -> float | None:
    """The run's seconds times its processes, one a device."""
    seconds = run.seconds()
    return None if seconds is None else seconds * processes(run)


def processes(run: Run) -> int:
    """How many processes shared the run, by its latest session; 1 where it does not say."""
    said = [number(session.get("world_size")) for session in run.metrics.sessions]
    return max(int(said[-1] or 1), 1) if said else 1


def on_gpu(run: Run) -> bool:
    """Whether the run says that it began on a GPU."""
    return any(event.event == "start" and "cuda" in event.text for event in run.metrics.events)

"""What a method costs: epochs to robust accuracy, and the device time of pre-training and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runs.methods import finetune_of, follow, members_of
from ...runs.read import Launch, Run, lookup, number
from ...runs.table import Row


@dataclass(frozen=True)
class Cost:
    """Of one evaluated model; None where it is not known or never came to be.

    pretrain, finetune:  seconds, times the processes that shared them, of all members; None for P1's pre-training
    to_best:             epochs of fine-tuning until validation RA was highest; None for members that were tuned apart
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
    tuned = {row.evaluation: _tuned(launch.runs[row.evaluation], launch) for row in rows if row.ra}
    targets: dict[tuple[object, ...], float] = {}
    for row in rows:
        runs = tuned.get(row.evaluation, [])
        best = best_ra(runs[0]) if len(runs) == 1 else None
        if row.method.label == "P1→F4" and best is not None:
            targets[_match(row)] = best
    found: dict[tuple[Path, ...], Cost] = {}
    used: list[Run] = []
    for row in rows:
        runs = tuned.get(row.evaluation, [])
        paths = tuple(run.path for run in runs)
        if runs and paths not in found:
            origins = list({run.path: run for tuning in runs for run in _origins(tuning, launch)}.values())
            used += [*runs, *origins]
            found[paths] = _cost(row, runs, origins, targets.get(_match(row)))
    kinds = {on_gpu(run) for run in used}
    devices = "GPU" if kinds == {True} else "process" if kinds == {False} else "processes and GPUs"
    return Costs(devices, list(found.values())) if found else None


def _tuned(run: Run, launch: Launch) -> list[Run]:
    """The fine-tunings that an evaluation judges: one, or those of an ensemble's members."""
    if lookup(run.config, "model.name") == "ensemble" and not lookup(run.config, "checkpoint"):
        return members_of(run, launch)
    found = finetune_of(run, launch)
    return [found] if found else []


def _origins(tuning: Run, launch: Launch) -> list[Run]:
    """The pre-trainings that a fine-tuning began with."""
    init = lookup(tuning.config, "init")
    found = follow(tuning, str(init), launch) if init else None
    return [found] if found else [run for run in members_of(tuning, launch) if run.command == "pretrain"]


def _match(row: Row) -> tuple[object, ...]:
    """What a baseline has to share with a row: attack and label counts stand in the setting."""
    return (row.setting, row.seed)


def _cost(row: Row, runs: list[Run], origins: list[Run], target: float | None) -> Cost:
    before, after = _together(origins), _together(runs)
    if len(runs) > 1:
        return Cost(row, before, after, None, target, None, None)
    epochs = number(runs[0].result.get("epochs"))
    reached = None if target is None else epochs_to(runs[0], target)
    seconds = None
    if reached is not None and after is not None and epochs:
        seconds = after * reached / epochs + (before or 0.0)
    return Cost(row, before, after, row.epochs_to_best_ra, target, reached, seconds)


def _together(runs: list[Run]) -> float | None:
    known = [seconds for run in runs if (seconds := device_seconds(run)) is not None]
    return sum(known) if runs and len(known) == len(runs) else None


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

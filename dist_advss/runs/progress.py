"""How far runs are: a launch as a whole, epochs, rates, speed and time."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..config.commands import trains
from ..files import locked
from .folders import lookup
from .metrics import number
from .read import Launch, Run
from .state import STATES, UNDER_WAY


def progress(launch: Launch) -> str:
    """ "all 8 stages finished", or "5 of 8 stages finished, 1 running, 2 waiting"; the report does not count."""
    counts: Counter[str] = Counter(run.state for run in launch.runs.values() if run.command != "report")
    total = counts.total()
    if counts["finished"] == total:
        return f"all {total} stages finished" if total > 1 else "finished"
    others = [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    return ", ".join([f"{counts['finished']} of {total} stages finished", *others])


def over(launch: Launch, but_report: bool = False) -> bool:
    """Whether no stage runs and no other will start; `but_report` leaves the report out, for its own writer."""
    runs = {stage: run for stage, run in launch.runs.items() if not (but_report and run.command == "report")}
    if any(run.state in UNDER_WAY for run in runs.values()):
        return False
    behind = {stage for stage, run in runs.items() if run.state == "stopped"}
    for _ in runs:  # each turn reaches one step further down the graph
        behind |= {stage for stage, run in runs.items() if behind & set(run.needs)}
    could_start = any(run.state == "waiting" and stage not in behind for stage, run in runs.items())
    return not (could_start and locked(launch.root / ".launch.lock"))


def epochs(run: Run) -> tuple[float, float] | None:
    """Epochs done, with the part of the current one, and in all; None for a run without epochs."""
    total = number(lookup(run.config, "schedule.epochs")) or number(run.result.get("epochs"))
    if not trains(run.command) or not total:
        return None
    done = number(run.result.get("epochs"))
    if done is None:
        lines = [run.metrics.train, run.metrics.validation]
        done = max((float(np.nan_to_num(line.column("epoch")).max()) for line in lines if len(line)), default=0.0)
    return min(done, total), total


def rate(run: Run, name: str) -> float | None:
    """An evaluation's "ta" or "ra" in percent; a training's at its best validation RA, before its end at the last one.

    None for a stale run: the number is not that of the weights that are there now.
    """
    if run.state == "stale":
        return None
    value = number(run.result.get(name))
    if value is None:
        value = number(lookup(run.result, f"best_ra.{name}"))
    if value is None:
        column = run.metrics.validation.column(name)
        column = column[~np.isnan(column)]
        value = float(column[-1]) if len(column) else None
    return value


def images_per_second(run: Run) -> float | None:
    """Training images a second over the whole run; validations and the time between sessions are left out.

    Each line of training has the mean speed since the line before it. So the run took the sum of steps / speed.
    """
    if not len(run.metrics.train):
        return None
    speed = run.metrics.train.column("images_per_s")
    steps = np.diff(run.metrics.train.step, prepend=0)
    measured = (speed > 0) & (steps > 0)
    if not measured.any():
        return None
    return float(steps[measured].sum() / (steps[measured] / speed[measured]).sum())


def elapsed(run: Run, now: float) -> float | None:
    """Seconds that the run took, or that a running one has taken since it was last started."""
    status = run.status
    if run.state in ("waiting", "queued", "skipped"):
        return None
    start = status.started if status.started is not None else run.started
    if run.state == "running" and start is not None:
        return max(0.0, now - start)
    if run.state not in ("finished", "stale") and status.started is not None:
        end = status.ended or run.last_sign or status.started
        return max(0.0, end - status.started)
    return run.seconds()


def remaining(run: Run) -> float | None:
    """Seconds that a running training still needs at its pace since it was last started; None before that is known."""
    lines = run.metrics.validation
    start = run.status.started if run.status.started is not None else run.started
    if run.state != "running" or start is None or not len(lines):
        return None
    of = epochs(run)
    if of is None:
        return None
    time, step = run.metrics.train.column("time"), run.metrics.train.step
    since = time >= start
    epoch = lines.column("epoch")[-1]
    if since.sum() < 2 or not epoch > 0:
        return None
    steps = lines.step[-1] / epoch * of[1]  # of the whole run
    pace = (time[since][-1] - time[since][0]) / max(1, step[since][-1] - step[since][0])
    return float(pace * max(0.0, steps - step[since][-1]))

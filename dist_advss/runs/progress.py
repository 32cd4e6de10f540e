"""Whether a launch is over, for those who watch it from outside, and how far its runs are."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import numpy as np

from .read import Launch, Run, lookup, number

OWNER = re.compile(r"(\d+) on (\S+)")  # what a launch writes into its lock: its process and machine


def over(launch: Launch) -> bool:
    """Whether nothing runs and nothing more will begin. The report does not count: it is what is being made."""
    runs = {stage: run for stage, run in launch.runs.items() if run.command != "report"}
    if any(run.state in ("running", "queued") for run in runs.values()):
        return False
    broken = {stage for stage, run in runs.items() if run.state in ("failed", "stopped")}
    for _ in runs:  # each turn reaches one step further down the graph
        broken |= {stage for stage, run in runs.items() if broken & set(run.needs)}
    could_begin = any(run.state == "not started" and stage not in broken for stage, run in runs.items())
    return not (could_begin and _launcher_lives(launch.root))


def _launcher_lives(root: Path) -> bool:
    """Whether the process that launches here still runs; one of another machine is taken to."""
    import psutil

    try:
        lock = root / ".launch.lock"
        owner, begun = OWNER.match(lock.read_text()), lock.stat().st_mtime
    except OSError:
        return False
    if owner is None:
        return False
    if owner[2] != socket.gethostname():
        return True
    try:  # process ids are used again: the launcher was there when it took the lock
        return psutil.Process(int(owner[1])).create_time() < begun + 2.0
    except psutil.Error:
        return False


def epochs(run: Run) -> tuple[float, float] | None:
    """Epochs done, with the part of the one under way, and in all; None for a run without epochs."""
    total = number(lookup(run.config, "schedule.epochs")) or number(run.result.get("epochs"))
    if run.command not in ("pretrain", "finetune") or not total:
        return None
    done = number(run.result.get("epochs"))
    if done is None:
        lines = [run.metrics.train, run.metrics.validation]
        done = max(float(np.nan_to_num(found.column("epoch")).max(initial=0.0)) for found in lines)
    return min(done, total), total

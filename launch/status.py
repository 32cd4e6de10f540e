"""`dist-advss status` and `watch`: the stages of a launch, from its folders and from Slurm where it has jobs there."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from dist_advss.errors import UserError
from dist_advss.live import watch as live
from dist_advss.runs import read as runs
from dist_advss.runs.metrics import Reader
from dist_advss.runs.read import Launch

from . import state
from .graph import Experiment, stored
from .job import sessions
from .queue import held
from .queue import submission as slurm
from .queue.journal import FOLDER
from .queue.slurm import NoAnswer

EVERY = 5.0  # seconds between two questions to Slurm


def status(directory: Path) -> int:
    """Prints a table of the stages, plain lines in a pipe. Raises UserError without a launch."""
    from rich.console import Console

    experiment_of(directory)
    live.show(read(directory, time.time()), Console(highlight=False))
    return 0


def watch(directory: Path) -> int:
    """Shows the stages live until the launch is over; 0 when all have finished, else 1. Ctrl-C leaves the jobs alone.

    Releases jobs that Slurm holds because it could not start them (`queue/held.py`).
    Takes a launch folder, a folder of these, or one run folder. Raises UserError where there is no run.
    """
    reader = Reader()
    every = EVERY if (directory / FOLDER).is_dir() else live.EVERY
    return live.watch(lambda: read(directory, time.time(), reader, releases=True), every, time.sleep)


def experiment_of(directory: Path) -> Experiment:
    """What was launched in a folder. Raises UserError where nothing was."""
    if not directory.is_dir():
        raise UserError(f"{directory}: not a folder; give the out=… of a launch")
    experiment = stored(directory)
    if experiment is None:
        raise UserError(f"{directory}: no experiment.yaml in it; give the out=… of a launch")
    return experiment


def read(directory: Path, now: float, reader: Reader | None = None, releases: bool = False) -> Launch:
    """The stages in the order in which they run, with the state of their Slurm jobs; `now` in unix seconds.

    With `releases`, jobs that Slurm could not start are released. When Slurm does not answer, the folders alone decide, and
    each unfinished stage has a note of that. Raises UserError where there is no run.
    """
    launch = runs.read(directory, now, reader)
    directory = directory.absolute()
    experiment = stored(directory) if (directory / FOLDER).is_dir() else None
    if experiment is None:
        return launch
    try:
        jobs = slurm.jobs(directory)
        if releases:
            held.release_if_free(directory, jobs, held.PAUSE_S)
        states = slurm.look(directory, experiment, jobs)
    except NoAnswer as error:
        unsure = f"as its folder shows; {error}"
        states = {
            stage: status if status.state in ("finished", "failed") else replace(status, error=status.error or unsure)
            for stage, status in state.look(directory, experiment).items()
        }
    requeues = dict.fromkeys(states, 0)
    for stage in sessions.begun(directory) & {stage for stage, status in states.items() if status.job}:
        past = sessions.sessions(directory, stage)
        requeues[stage] = past[-1].restart if past else 0
    return launch.with_statuses(states, requeues)

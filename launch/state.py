"""How far a stage is: state.json in its folder, whether its process still lives, and who owns the launch folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import psutil

from dist_advss.files import locked, only_process, write_json

from .graph import Experiment, Stage
from .queue.slurm import Job

Name = Literal["finished", "running", "queued", "failed", "died", "stopped", "skipped", "waiting"]
BROKEN = ("failed", "died", "skipped")


@dataclass(frozen=True)
class State:
    """What state.json holds, or what the folder and the stage's needs imply where it holds nothing.

    state:   finished · running · queued (at Slurm, which has not started it) · failed (it said why) · died (its process
             is gone and left no result) · stopped (by a signal, saved) · skipped (something it needs is broken) · waiting
    pid, host, born: the process, its machine, and when it began (unix seconds), as process ids are used again
    started, ended:  unix seconds
    error:   the last line of what went wrong; of a queued stage, why it waits
    job:     Slurm's id, and nodes: where it ran last
    """

    state: Name
    pid: int | None = None
    host: str | None = None
    born: float | None = None
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    job: str | None = None
    nodes: str | None = None


def running(pid: int, now: float) -> State:
    """A stage that process `pid` of this machine has just begun."""
    return State("running", pid, socket.gethostname(), _born(pid), started=now)


def write(directory: Path, stage: str, state: State) -> None:
    """Writes DIRECTORY/STAGE/state.json, whole or not at all. Raises RunError."""
    write_json(directory / stage / "state.json", asdict(state))


def read(directory: Path, stage: str) -> State:
    """DIRECTORY/STAGE/state.json; "waiting" when there is none, or none that can be read."""
    try:
        content: dict[str, Any] = json.loads((directory / stage / "state.json").read_text())
        return State(**content)
    except (OSError, ValueError, TypeError):
        return State("waiting")


def product(directory: Path, stage: Stage) -> Path:
    """The file whose presence means that the stage is finished."""
    return directory / "report.html" if stage.command == "report" else directory / stage.name / "result.json"


def finished(directory: Path, stage: Stage) -> bool:
    """Whether the stage has its result; a report also has to be newer than the results that it tells of."""
    file = product(directory, stage)
    if not file.is_file():
        return False
    if stage.command != "report":
        return True
    results = [directory / need / "result.json" for need in stage.needs]
    return all(r.is_file() and r.stat().st_mtime <= file.stat().st_mtime for r in results)


def alive(directory: Path, stage: str, state: State) -> bool:
    """Whether the process of a running stage still lives; one of another machine does while the run folder is locked."""
    if state.pid is None:
        return False
    if state.host != socket.gethostname():
        return locked(directory / stage / ".lock")
    born = _born(state.pid)
    return born is not None and (state.born is None or abs(born - state.born) < 2.0)


def look(directory: Path, experiment: Experiment, jobs: Mapping[str, Job] | None = None) -> dict[str, State]:
    """The state of every stage of a launch folder, in the experiment's order. Reads only.

    `jobs` holds the last job of each stage that was queued at Slurm, as Slurm knows it.
    """
    states: dict[str, State] = {}
    for stage in experiment.stages.values():
        written = read(directory, stage.name)
        broken = [need for need in stage.needs if states[need].state in BROKEN]
        if finished(directory, stage):
            states[stage.name] = replace(written, state="finished", error=None)
        elif jobs and stage.name in jobs and not (written.state == "failed" and not jobs[stage.name].goes_on):
            states[stage.name] = _of_job(stage, written, jobs[stage.name], states)
        elif written.state == "running" and not alive(directory, stage.name, written):
            error = f"process {written.pid} is gone and left no result"
            states[stage.name] = replace(written, state="died", error=error)
        elif written.state in ("running", "failed", "stopped"):
            states[stage.name] = written
        elif broken:
            states[stage.name] = State("skipped", error=why_skipped(broken[0], states[broken[0]]))
        else:
            states[stage.name] = State("waiting")
    return states


def _of_job(stage: Stage, written: State, job: Job, before: Mapping[str, State]) -> State:
    """The state of a stage without a result, from its job."""
    known = replace(written, job=job.id, nodes=job.nodes or written.nodes)
    if job.waits:
        return replace(known, state="queued", error=job.reason or None, ended=None)
    if job.goes_on:
        return replace(known, state="running", error=None, ended=None)
    broken = [need for need in stage.needs if before[need].state in BROKEN or before[need].state == "stopped"]
    if broken and written.state == "waiting":
        return replace(known, state="skipped", error=why_skipped(broken[0], before[broken[0]]))
    if job.state == "CANCELLED" or written.state == "stopped":
        return replace(known, state="stopped", error=f"job {job.id} was cancelled; launch again to go on")
    how = f"ended as {job.state}" if job.state != "FORGOTTEN" else "is no longer known to Slurm"
    return replace(known, state="died", error=f"job {job.id} {how} and left no result")


def why_skipped(need: str, state: State) -> str:
    """The clause that a skipped stage is shown with."""
    verb = {"died": "died", "skipped": "was skipped", "stopped": "was stopped"}.get(state.state, "failed")
    return f"needs {need}, which {verb}"


@contextlib.contextmanager
def owner(directory: Path) -> Iterator[TextIO]:
    """The launch folder for this process alone. Raises UserError when it cannot be written or another launch is at work.

    Yields the lock, which is held until the last process that inherited it has ended. The pid inside is there to be named.
    """

    def in_use(process: str) -> str:
        return (
            f"process {process or '?'} is launching here already; "
            f"follow it with dist-advss status {directory}, or choose another folder"
        )

    with only_process(directory, ".launch.lock", in_use) as lock:
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield lock


def _born(pid: int) -> float | None:
    """When a living process began, unix seconds; None when there is none (a zombie has ended)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None

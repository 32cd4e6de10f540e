"""How far a stage is: state.json in its folder, whether its process still lives, and who owns the launch folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from dist_advss.files import only_process, write_json

from .graph import Experiment, Stage

Name = Literal["finished", "running", "failed", "died", "stopped", "skipped", "waiting"]
BROKEN = ("failed", "died", "skipped")


@dataclass(frozen=True)
class State:
    """What state.json holds, or what the folder and the stage's needs imply where it holds nothing.

    state:   finished · running · failed (it said why) · died (its process is gone and left no result) · stopped (by a
             signal, saved) · skipped (something it needs is broken) · waiting
    pid, host, born: the process, its machine, and when it began (unix seconds), as process ids are used again
    started, ended:  unix seconds
    error:   the last line of what went wrong
    """

    state: Name
    pid: int | None = None
    host: str | None = None
    born: float | None = None
    started: float | None = None
    ended: float | None = None
    error: str | None = None


def running(pid: int, now: float) -> State:
    """A stage that process `pid` of this machine has just begun."""
    return State("running", pid, socket.gethostname(), _born(pid), started=now)


def write(directory: Path, stage: str, state: State) -> None:
    """Writes DIRECTORY/STAGE/state.json, whole or not at all. Raises RunError."""
    write_json(directory / stage / "state.json", asdict(state))


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
        return _locked(directory / stage / ".lock")
    born = _born(state.pid)
    return born is not None and (state.born is None or abs(born - state.born) < 2.0)


def look(directory: Path, experiment: Experiment) -> dict[str, State]:
    """The state of every stage of a launch folder, in the experiment's order. Reads only."""
    states: dict[str, State] = {}
    for stage in experiment.stages.values():
        written = _read(directory / stage.name / "state.json")
        broken = [need for need in stage.needs if states[need].state in BROKEN]
        if finished(directory, stage):
            states[stage.name] = State(**{**asdict(written), "state": "finished", "error": None})
        elif written.state == "running" and not alive(directory, stage.name, written):
            error = f"process {written.pid} is gone and left no result"
            states[stage.name] = State(**{**asdict(written), "state": "died", "error": error})
        elif written.state in ("running", "failed", "stopped"):
            states[stage.name] = written
        elif broken:
            states[stage.name] = State("skipped", error=why_skipped(broken[0], states[broken[0]]))
        else:
            states[stage.name] = State("waiting")
    return states


def why_skipped(need: str, state: State) -> str:
    """The clause that a skipped stage is shown with."""
    verb = {"died": "died", "skipped": "was skipped", "stopped": "was stopped"}.get(state.state, "failed")
    return f"needs {need}, which {verb}"


@contextlib.contextmanager
def owner(directory: Path) -> Iterator[None]:
    """The launch folder for this process alone. Raises UserError when it cannot be written or another launch is at work.

    The pid inside the lock is there to be named.
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
        yield


def _born(pid: int) -> float | None:
    """When a living process began, unix seconds; None when there is none (a zombie has ended)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _locked(file: Path) -> bool:
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(file: Path) -> State:
    """state.json; "waiting" when there is none, or none that can be read."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return State(**content)
    except (OSError, ValueError, TypeError):
        return State("waiting")

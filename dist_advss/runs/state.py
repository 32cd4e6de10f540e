"""The state of a run: from its result, from the state.json of its launcher, and from its signs of life.

| state | |
|---|---|
| waiting | has not started |
| queued | Slurm has its job and has not started it |
| running | its process lives |
| finished | has its result |
| stale | has a result that was made from other weights than its source run has now |
| stopped | a signal ended it after it saved; the same command resumes it |
| failed | ended with an error; `launch --retry-failed` tries it again |
| died | its process is gone without a result or an error; the next launch resumes it |
| skipped | needs a stage that failed, died or was skipped |
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import psutil

from ..files import locked, locks_elsewhere, read_text, write_json
from ..text import one_line
from .folders import is_run, last_writes
from .metrics import Metrics, Reader, number
from .stale import changed_weights

State = Literal["waiting", "queued", "running", "finished", "stale", "stopped", "failed", "died", "skipped"]
STATES: tuple[State, ...] = (
    "finished",
    "stale",
    "running",
    "queued",
    "stopped",
    "failed",
    "died",
    "skipped",
    "waiting",
)
UNDER_WAY = ("running", "queued")
BROKEN = ("failed", "died", "skipped")  # stages that need such a one are skipped
ENDED = ("stopped", "failed", "died")  # without a result
AHEAD = frozenset(["code.json", "code.diff"])  # in the folder of a stage that has not begun: the code that it will run
SILENCE = 1800.0  # seconds without a sign of life after which a run counts as dead; a run that logs rarely gets more


@dataclass(frozen=True)
class Status:
    """The content of state.json, which the launcher writes as a stage starts and ends.

    pid, host, born: the process, its machine, and when it started (unix seconds), because pids are reused
    started, ended:  of the last start, unix seconds
    error:           the last line of an error; the reason why a queued stage waits
    job, nodes:      of the last Slurm job
    """

    state: State
    pid: int | None = None
    host: str | None = None
    born: float | None = None
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    job: str | None = None
    nodes: str | None = None


class Stage(Protocol):
    """A stage as its experiment defines it."""

    @property
    def name(self) -> str: ...
    @property
    def command(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


def running(pid: int, now: float) -> Status:
    """The status of a stage that process `pid` of this machine starts now (unix seconds)."""
    return Status("running", pid, socket.gethostname(), _born(pid), started=now)


def write(folder: Path, status: Status) -> None:
    """Replaces FOLDER/state.json atomically. Raises RunError when the disk is full."""
    write_json(folder / "state.json", asdict(status))


def read(folder: Path) -> Status:
    """FOLDER/state.json; "waiting" where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(read_text(folder / "state.json"))
        status = Status(**content)
    except (OSError, ValueError, TypeError, RecursionError):
        return Status("waiting")
    if not _is_plausible(status):
        return Status("waiting")
    texts: dict[str, Any] = {name: one_line(text) for name, text in asdict(status).items() if isinstance(text, str)}
    return replace(status, **texts)


def _is_plausible(status: Status) -> bool:
    """Whether each value is of its type, so that nothing below has to check."""
    texts = (status.host, status.error, status.job, status.nodes)
    numbers = (status.born, status.started, status.ended)
    return (
        status.state in STATES
        and (status.pid is None or (type(status.pid) is int and 0 < status.pid < 2**31))
        and all(text is None or isinstance(text, str) for text in texts)
        and all(value is None or number(value) is not None for value in numbers)
    )


def untouched(folder: Path) -> bool:
    """Whether nothing has run in the folder of a stage: it is missing, or has no more than a launcher puts there ahead.

    One listing tells it of the thousands of stages that wait in a large launch, where each file would be looked for otherwise.
    """
    try:
        if not AHEAD.issuperset(os.listdir(folder)):
            return False
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return False
    return not (locks_elsewhere() and locked(folder / ".lock"))


def product(directory: Path, stage: Stage) -> Path:
    """The file that makes the stage finished."""
    return directory / "report.html" if stage.command == "report" else directory / stage.name / "result.json"


def finished(directory: Path, stage: Stage) -> bool:
    """Whether the stage has its result, and that is made from the weights that the stages before it have now.

    A report must also be newer than the results that it shows.
    """
    file = product(directory, stage)
    if not file.is_file() or stale(directory, stage) is not None:
        return False
    if stage.command != "report":
        return True
    results = [directory / need / "result.json" for need in stage.needs]
    if any(changed_weights(result.parent) is not None for result in results):
        return False
    return all(result.is_file() and result.stat().st_mtime <= file.stat().st_mtime for result in results)


def stale(directory: Path, stage: Stage) -> str | None:
    """Why the stage's result does not count any more; None where there is no result, or it counts."""
    if stage.command == "report":
        return None
    changed = changed_weights(directory / stage.name)
    return changed and f"its result is of other weights: {changed}; remove {directory / stage.name}, then launch again"


def process_lives(status: Status) -> bool:
    """Whether the process that state.json names lives on this machine."""
    if status.pid is None or status.host != socket.gethostname():
        return False
    born = _born(status.pid)
    return born is not None and (status.born is None or abs(born - status.born) < 2.0)


def alive(folder: Path, status: Status) -> bool:
    """Whether a process works in the run folder: the one that started it, or whichever holds the folder's lock.

    A local launch that is killed as it starts a process may leave no pid. The process then holds the lock of its log.
    """
    started = status.state == "running" and process_lives(status)
    return started or locked(folder / ".lock") or (status.pid is None and locked(folder / "log.txt"))


def of_stage(directory: Path, stage: Stage, now: float, reader: Reader) -> Status:
    """The status of a stage of a launch folder, without regard to the stages that it needs. Reads only."""
    if finished(directory, stage):
        return replace(read(directory / stage.name), state="finished", error=None)
    why = stale(directory, stage)
    if why is not None and not alive(directory / stage.name, read(directory / stage.name)):
        return replace(read(directory / stage.name), state="failed", error=why)
    return of_unfinished(directory / stage.name, now, reader)


def of_unfinished(folder: Path, now: float, reader: Reader) -> Status:
    """The status of a run folder without a result, at `now` (unix seconds). Reads only.

    What a launcher wrote counts unless you have restarted the run by hand since. Where no launcher wrote anything, the
    lock, the last event and the time of the last line decide.
    """
    written = read(folder)
    if written.state == "queued":
        return written
    if alive(folder, written):
        return replace(written, state="running", error=None, ended=None)
    if written.state == "finished":  # its result was removed since, so it will run again
        return Status("waiting")
    metrics = reader.read(folder / "metrics.jsonl", [])
    if written.state in ENDED and not _restarted(written, metrics):
        return written
    # The lock of a job on another node may be invisible here, so its signs of life decide.
    if written.state == "running" and not (written.job and written.host != socket.gethostname()):
        return replace(written, state="died", error=f"process {written.pid} is gone and left no result")
    return _from_signs_of_life(folder, written, metrics, now)


def skipped(needs: Iterable[str], statuses: Mapping[str, Status], broken: Iterable[str] = BROKEN) -> Status | None:
    """The status of a stage that waits for `needs`, if one of these is broken; it names the first cause."""
    for need in needs:
        if need in statuses and statuses[need].state in broken:
            return Status("skipped", error=why_skipped(need, statuses[need]))
    return None


def why_skipped(need: str, status: Status) -> str:
    """The reason that a skipped stage is shown with, such as "needs p3_pretrain, which failed"."""
    if status.state == "skipped" and status.error:
        return status.error
    verb = {"died": "died", "skipped": "was skipped", "stopped": "was stopped"}.get(status.state, "failed")
    return f"needs {need}, which {verb}"


def _restarted(written: Status, metrics: Metrics) -> bool:
    """Whether metrics.jsonl has lines from well after the end that the launcher saw."""
    times = metrics.times()
    return written.ended is not None and len(times) > 0 and bool(times[-1] > written.ended + 60.0)


def _from_signs_of_life(folder: Path, written: Status, metrics: Metrics, now: float) -> Status:
    if not is_run(folder):
        return written if written.state == "running" else Status("waiting")
    last = metrics.events[-1] if metrics.events else None
    if last and last.event == "stop":
        return replace(written, state="stopped", error=last.text or None)
    if last and last.event in ("nan", "overfitting"):
        return replace(written, state="failed", error=last.text or None)
    times = metrics.times()
    recent = max([*times[-1:].tolist(), *last_writes(folder)], default=now)
    longest_gap = float(np.diff(times).max(initial=0.0))
    if now - recent > max(SILENCE, 5 * longest_gap):
        minutes = (now - recent) / 60
        error = f"no result and no sign of life for {minutes:,.0f} minutes"
        return replace(written, state="died", error=error)
    return replace(written, state="running", error=None, ended=None)


def _born(pid: int) -> float | None:
    """When a living process started, unix seconds; None for a pid without process (a zombie has ended)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None

"""Goodput: the share of a run's wall-clock time that trained or validated what the run kept.

It follows from metrics.jsonl alone. A `session` line says when the process began and at which step it resumes. A `spent`
line, after each checkpoint, says how many seconds of its session went into validation and into saving.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..text import duration
from .metrics import Event, Metrics, number


@dataclass(frozen=True)
class Goodput:
    """Where the time of a run went, in seconds over all its sessions. The parts add up to `wall`.

    queued      before the first process began, and between the last line of a session and the next process
    starting    from the start of a process to its first step: imports, images, the process group, the checkpoint
    training    steps that the run kept, and those since the last checkpoint of a run that has not resumed yet
    validating  the same of validations
    saving      waiting for checkpoints
    lost        training and validation that a later session repeated, or that a rollback dropped
    """

    queued: float
    starting: float
    training: float
    validating: float
    saving: float
    lost: float
    sessions: int

    @property
    def wall(self) -> float:
        return self.queued + self.starting + self.training + self.validating + self.saving + self.lost

    @property
    def share(self) -> float:
        """Goodput, 0 to 1: training and validation over all time; 0 of no time."""
        return (self.training + self.validating) / self.wall if self.wall > 0 else 0.0

    def as_record(self) -> dict[str, float]:
        """The numbers for result.json, seconds with 0.1 s."""
        return {"share": round(self.share, 4), **{name: round(value, 1) for name, value in asdict(self).items()}}

    def __str__(self) -> str:
        """The line that a run ends with, such as "goodput 91% of 12 min: training 80%, …"; parts below 0.5% are left out."""
        parts = {name: value for name, value in asdict(self).items() if name != "sessions"}
        shown = [f"{name} {value / self.wall:.0%}" for name, value in parts.items() if value >= 0.005 * self.wall > 0]
        over = f" in {self.sessions} sessions" if self.sessions > 1 else ""
        return f"goodput {self.share:.0%} of {duration(self.wall)}{over}: {', '.join(shown) or 'no time'}"


@dataclass(frozen=True)
class _Spent:
    """The training and validation of a run up to some moment, seconds."""

    training: float
    validating: float

    @property
    def work(self) -> float:
        return self.training + self.validating


@dataclass(frozen=True)
class _Session:
    """One process: when it began, when it was ready for its first step (unix seconds), and the step at which it resumed.

    Or, with `rollback`, what the process before it did after a rollback to that step.
    """

    began: float
    ready: float
    step: int
    rollback: bool = False


@dataclass(frozen=True)
class _Line:
    """A `spent` line: seconds of its session so far. `saved` after a checkpoint of everything until then."""

    time: float
    step: int
    validating: float
    saving: float
    saved: bool


def goodput(metrics: Metrics, until: float | None = None) -> Goodput | None:
    """Where the time of a training went, up to its last line, or `until` (unix seconds).

    None before its first session, and for a run of an earlier version, which did not record when its processes began.

    A session ends with its last line: what a killed process did after that counts as queued. Work is lost if the next
    session resumes at an earlier step than that of the checkpoint which followed it.
    """
    sessions, lines = _sessions(metrics.sessions), _spent(metrics.spent)
    processes = len(sessions)
    if not sessions or processes < len(metrics.sessions):
        return None
    sessions = sorted([*sessions, *_rollbacks(metrics.events)], key=lambda session: session.ready)
    signs = np.append(metrics.times(), [] if until is None else [until])
    submitted = number(metrics.sessions[0].get("submitted"))
    free = sessions[0].began if submitted is None else min(submitted, sessions[0].began)  # when no process was running
    queued = starting = saving = lost = validating = saved_for = 0.0
    now = _Spent(0.0, 0.0)
    kept = [(0, now)]  # what each checkpoint so far contains: (its step, the work until then)
    for session, following in zip(sessions, [*sessions[1:], None], strict=True):
        # 1. Nothing ran since the session before, then this one started.
        began = min(max(session.began, free), session.ready)  # a process may have run an earlier session
        queued += max(0.0, began - free)
        starting += session.ready - began

        # 2. Work since the checkpoint that it resumes from is lost.
        while kept[-1][0] > session.step:
            kept.pop()
        lost += now.work - kept[-1][1].work
        now = kept[-1][1]

        # 3. It works until its last sign of life.
        last = np.inf if following is None else max(following.began, session.ready)
        own = signs[(signs >= session.ready) & (signs <= last)]
        free = float(own.max(initial=session.ready))
        # A line counts from the start of its process, which is before a rollback.
        earlier = (validating, saved_for) if session.rollback else (0.0, 0.0)
        before, (validating, saved_for) = now, earlier
        while lines and lines[0].time <= free:
            line = lines.popleft()
            validating, saved_for = line.validating, line.saving
            if line.saved:
                spent = (validating - earlier[0], saved_for - earlier[1])
                kept.append((line.step, _after(before, line.time - session.ready, *spent)))
        now = _after(before, free - session.ready, validating - earlier[0], saved_for - earlier[1])
        saving += saved_for - earlier[1]
    return Goodput(queued, starting, now.training, now.validating, saving, lost, processes)


def _sessions(lines: Sequence[dict[str, Any]]) -> list[_Session]:
    """The sessions that say when they began, in the order in which they ran."""
    read = [(number(line.get("began")), number(line.get("time")), number(line.get("step"))) for line in lines]
    found = [
        _Session(min(began, ready), ready, max(0, int(step)))
        for began, ready, step in read
        if began is not None and ready is not None and step is not None
    ]
    return sorted(found, key=lambda session: session.ready)


def _rollbacks(events: Sequence[Event]) -> list[_Session]:
    """The sections of sessions that begin with a rollback."""
    return [
        _Session(event.time, event.time, max(0, event.step), rollback=True)
        for event in events
        if event.event == "rollback" and event.time is not None and event.step is not None
    ]


def _spent(lines: Sequence[dict[str, Any]]) -> deque[_Line]:
    """The undamaged `spent` lines in the order of time."""
    names = ("time", "step", "validating", "saving")
    read = [([number(line.get(name)) for name in names], line.get("saved") is True) for line in lines]
    found = [_Line(v[0], int(v[1]), v[2], v[3], saved) for v, saved in read if None not in v]  # type: ignore[arg-type]
    return deque(sorted(found, key=lambda line: line.time))


def _after(before: _Spent, elapsed: float, validating: float, saving: float) -> _Spent:
    """The work after `elapsed` seconds of a session; what is neither validation nor saving is training."""
    return _Spent(before.training + max(0.0, elapsed - validating - saving), before.validating + validating)

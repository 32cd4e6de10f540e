"""What happened to a stage inside its jobs: a line for each time it was begun, and how every rank of it ended.

_slurm/sessions/STAGE.jsonl grows by one line a session. _slurm/ranks/JOB.RESTART/RANK.json says how one process ended; a
process that was killed, or whose node is gone, leaves none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dist_advss.files import write_json

from ..queue.journal import FOLDER

STUCK = 3  # preflights in a row that may fail


@dataclass(frozen=True)
class Session:
    """One start of a stage in a job. `progress` is what `progress_of` saw then; `healthy` is False after a bad preflight."""

    submission: str
    job: str
    restart: int
    nodes: str
    time: float
    progress: list[Any]
    healthy: bool = True


@dataclass(frozen=True)
class End:
    """How one rank ended: finished · stopped (by a signal, saved) · unhealthy (its node) · lost (other ranks went away) ·
    failed, which is for good."""

    kind: str
    rank: int
    node: str
    time: float
    error: str | None = None


def record(directory: Path, stage: str, session: Session) -> None:
    """Adds a session; on disk when this returns."""
    file = directory / FOLDER / "sessions" / f"{stage}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(session)) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def sessions(directory: Path, stage: str) -> list[Session]:
    """Every session of a stage so far, oldest first."""
    found = []
    try:
        text = (directory / FOLDER / "sessions" / f"{stage}.jsonl").read_text(errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            found.append(Session(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def progress_of(run_folder: Path) -> list[Any]:
    """What a run has to show that a next session would go on from; equal at two times if nothing was saved between them."""
    kept = [
        *run_folder.glob("checkpoints/*.pt"),
        *run_folder.glob("*.npz"),
        *run_folder.glob("partial*"),
        *run_folder.glob("result.json"),
    ]
    return sorted([file.name, file.stat().st_mtime_ns, file.stat().st_size] for file in kept)


def why_give_up(past: list[Session], submission: str, requeues: int, most: int, now: list[Any]) -> str | None:
    """Why a stage must not be queued again after `requeues` requeues of this submission; None when it may.

    `past` are its sessions, `now` the progress so far. A first session that saves nothing may have been unlucky; one that
    was itself begun by a requeue and saves nothing means that the next would not either.
    """
    if requeues > most:
        return f"requeued {most} times already (cluster.max_requeues); launch again to go on"
    own = [session for session in past if session.submission == submission]
    if len(own) >= STUCK and not any(session.healthy for session in own[-STUCK:]):
        return f"the preflight failed {STUCK} times in a row"
    if own and own[-1].healthy and own[-1].restart > 0 and own[-1].progress == now:
        return "nothing was saved between two requeues; set train.checkpoint_every or a longer cluster.minutes"
    return None


def ends_folder(directory: Path, job: str, restart: int) -> Path:
    return directory / FOLDER / "ranks" / f"{job}.{restart}"


def record_end(folder: Path, end: End) -> None:
    write_json(folder / f"{end.rank}.json", asdict(end))


def ends(folder: Path) -> dict[int, End]:
    """How each rank ended, of those that could say so."""
    found = {}
    for file in folder.glob("*.json"):
        try:
            end = End(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        found[end.rank] = end
    return found

"""The record of a stage inside its jobs: one line for each start, and one file for the end of each rank.

Each start appends a line to _slurm/sessions/STAGE.jsonl. Each rank writes how it ended to
_slurm/ranks/JOB.RESTART/RANK.json. A rank that was killed, or whose node was lost, leaves no file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dist_advss.files import open_own, write_json

from ..queue.journal import FOLDER

STUCK = 3  # starts in a row that end before the run begins, after which a stage fails


@dataclass(frozen=True)
class Session:
    """One start of a stage in a job. `progress` is `progress_of` at that time. `healthy` is False if the run did not begin."""

    submission: str
    job: str
    restart: int
    nodes: str
    time: float
    progress: list[Any]
    healthy: bool = True


@dataclass(frozen=True)
class End:
    """How one rank ended.

    kind: finished · stopped (by a signal, after saving) · unhealthy (its node failed the preflight) · lost (another rank
    exited first) · failed (an error that a requeue would repeat)
    """

    kind: str
    rank: int
    node: str
    time: float
    error: str | None = None


def record(directory: Path, stage: str, session: Session) -> None:
    """Appends a session, which is on disk when this returns."""
    file = directory / FOLDER / "sessions" / f"{stage}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_own(file, "a") as lines:
        lines.write(json.dumps(asdict(session)) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def begun(directory: Path) -> set[str]:
    """The stages that have a session. One listing tells which of thousands have none."""
    try:
        return {file.removesuffix(".jsonl") for file in os.listdir(directory / FOLDER / "sessions")}
    except OSError:
        return set()


def sessions(directory: Path, stage: str) -> list[Session]:
    """Every session of a stage so far, oldest first."""
    past = []
    try:
        text = (directory / FOLDER / "sessions" / f"{stage}.jsonl").read_text(errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            past.append(Session(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return past


def progress_of(run_folder: Path) -> list[Any]:
    """Name, mtime and size of each file or folder that a run resumes from. It is unchanged if the run saved nothing in between."""
    files = [
        *run_folder.glob("checkpoints/*.pt"),
        *run_folder.glob("checkpoints/*.shards"),
        *run_folder.glob("*.npz"),
        *run_folder.glob("partial*"),
        *run_folder.glob("result.json"),
    ]
    return sorted([file.name, file.stat().st_mtime_ns, file.stat().st_size] for file in files)


def eligible(directory: Path, needs: Iterable[str], submitted: float) -> float:
    """When a stage could have started (unix seconds): at its submission, or when the last stage that it needs had finished."""
    results = [directory / need / "result.json" for need in needs]
    return max([submitted, *(result.stat().st_mtime for result in results if result.is_file())])


def why_give_up(past: list[Session], submission: str, requeues: int, most: int, now: list[Any]) -> str | None:
    """The reason not to requeue a stage after `requeues` requeues of this submission; None if it may be requeued.

    `past` holds its sessions, `now` the present `progress_of`. The first session may save nothing, for example after an
    early preemption. If a requeued session saves nothing, the next one would not either.
    """
    if requeues > most:
        return f"requeued {most} times already (cluster.max_requeues); launch again to resume"
    own = [session for session in past if session.submission == submission]
    if len(own) >= STUCK and not any(session.healthy for session in own[-STUCK:]):
        return f"{STUCK} starts in a row ended before the run began"
    if own and own[-1].healthy and own[-1].restart > 0 and own[-1].progress == now:
        return "nothing was saved between two requeues; set train.checkpoint_every or a longer cluster.minutes"
    return None


def ends_folder(directory: Path, job: str, restart: int) -> Path:
    """The folder with the ends of one start of a job."""
    return directory / FOLDER / "ranks" / f"{job}.{restart}"


def record_end(folder: Path, end: End) -> None:
    """Writes how a rank ended. Raises RunError."""
    write_json(folder / f"{end.rank}.json", asdict(end))


def ends(folder: Path) -> dict[int, End]:
    """How each rank ended, by rank, for those that left a file."""
    by_rank = {}
    for file in folder.glob("*.json"):
        try:
            end = End(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        by_rank[end.rank] = end
    return by_rank

"""Decides about a stage when all its ranks have ended: finished, failed, or requeued."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

from dist_advss.errors import EXIT_HANG
from dist_advss.runs import state
from dist_advss.runs.state import Status

from ..queue import slurm
from .allocation import Allocation
from .sessions import End, Session, ends, ends_folder, progress_of, record, sessions, why_give_up


def end_of_job(place: Allocation, code: int) -> int:
    """Writes how the stage ended and requeues the job if the stage should resume. Returns the job's exit code.

    `code` is srun's exit code, the highest of any rank.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue terminates this shell before it has finished
    if place.submission.void:
        return 0
    directory, name = place.directory, place.stage.name
    said = ends(ends_folder(directory, place.job, place.restart))
    before = state.read(directory / name)
    now = replace(before, job=place.job, nodes=place.node_list, ended=time.time())
    if state.finished(directory, place.stage):
        state.write(directory / name, replace(now, state="finished", error=None))
        return 0
    why = state.stale(directory, place.stage) or failure(said, place.ranks)
    if why is None:
        why = _back_to_the_queue(place, _reason(place, said, code), said, now)
    if why is None:
        return 0
    state.write(directory / name, replace(now, state="failed", error=why))
    print(f"{name} failed: {why}", flush=True)
    return 1


def failure(said: dict[int, End], ranks: int) -> str | None:
    """Why the stage failed: the error of the rank that failed first; None if no rank reported a failure."""
    failed = sorted((end for end in said.values() if end.kind == "failed"), key=lambda end: end.time)
    if failed:
        first = failed[0]
        return f"rank {first.rank} on {first.node}: {first.error}" if ranks > 1 else first.error or "no message"
    if said.get(0) and said[0].kind == "finished":
        return "ended without a result"
    return None


def _reason(place: Allocation, said: dict[int, End], code: int) -> str:
    """Why the stage did not finish, if no rank reported a failure."""
    unhealthy = [end for end in said.values() if end.kind == "unhealthy"]
    if unhealthy:
        return f"{unhealthy[0].node} failed its preflight: {unhealthy[0].error}"
    stopped = [end for end in said.values() if end.kind == "stopped" and end.error]
    if stopped:
        return str(stopped[0].error)
    if code == EXIT_HANG:
        return "no progress within guard.hang_s"
    gone = [rank for rank in range(place.ranks) if rank not in said]
    if gone:
        who = "its process" if place.ranks == 1 else f"rank {', '.join(map(str, gone))} of {place.ranks}"
        return f"{who} exited without a message (srun exit code {code})"
    return next((end.error for end in said.values() if end.error), "interrupted")


def _back_to_the_queue(place: Allocation, why: str, said: dict[int, End], now: Status) -> str | None:
    """Requeues the job because of `why`. Returns None, or the error if it cannot be requeued."""
    directory, name = place.directory, place.stage.name
    settings = place.submission.settings
    bad = sorted({end.node for end in said.values() if end.kind == "unhealthy"})
    if bad:
        if not settings.get("avoid_bad_nodes", True):
            return why
        record(directory, name, _unhealthy(place))
    past, progress = sessions(directory, name), progress_of(directory / name)
    most = int(settings.get("max_requeues", 50))
    hopeless = why_give_up(past, place.submission.name, place.restart + 1, most, progress)
    if hopeless:
        return f"{why}; given up: {hopeless}"
    state.write(directory / name, replace(now, state="stopped", error=why))
    try:
        listed = slurm.queued([place.job.split("_")[0]]).get(place.job)
        if listed is not None and listed.name != place.submission.name:
            return f"{why}; not requeued, as job {place.job} is {listed.name} and not {place.submission.name}"
        if listed is not None and listed.state != "RUNNING":  # cancelled, or Slurm requeues it itself
            return None
        print(f"{name}: {why}; requeued", flush=True)
        slurm.requeue(place.job, ",".join(bad) or None)
    except slurm.NoAnswer as error:
        return f"{why}; could not be requeued ({error}); launch again to resume"
    return None


def _unhealthy(place: Allocation) -> Session:
    return Session(place.submission.name, place.job, place.restart, place.node_list, time.time(), [], healthy=False)

"""Decides about a stage when all its ranks have ended: finished, failed, or requeued."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import replace
from typing import Literal

from dist_advss.errors import EXIT_HANG
from dist_advss.runs import state
from dist_advss.runs.state import Status

from ..queue import slurm
from ..queue.script import output_file
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
    end = _back_to_the_queue(place, _reason(place, said, code), said, now) if why is None else ("failed", why)
    if end is None:
        return 0
    # exit code 1 keeps the jobs that wait for this one from starting
    state.write(directory / name, replace(now, state=end[0], error=end[1]))
    print(f"{name} {end[0]}: {end[1]}", flush=True)
    return 1


def set_up_failed(place: Allocation, command: str) -> int:
    """Writes that a command of the batch shell failed before srun. Returns the job's exit code."""
    if place.submission.void:
        return 0
    directory, name = place.directory, place.stage.name
    error = f"set-up on {place.node}: `{command}` failed; what it printed: dist-advss logs {directory} {name}"
    before = state.read(directory / name)
    end = replace(before, state="failed", error=error, job=place.job, nodes=place.node_list, ended=time.time())
    state.write(directory / name, end)
    print(f"{name} failed: {error}", flush=True)
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
    if len(gone) == place.ranks and not _began(place):
        return f"no rank started (srun exit code {code}){_last_output(place)}"
    first = next((said[rank] for rank in sorted(said) if said[rank].error), None)
    if not gone:
        return str(first.error) if first else "interrupted"
    who = "its process" if place.ranks == 1 else f"rank {', '.join(map(str, gone))} of {place.ranks}"
    heard = f"; rank {first.rank}: {first.error}" if first else ""
    return f"{who} exited without a message (srun exit code {code}){heard}"


def _began(place: Allocation) -> bool:
    """Whether rank 0 passed the preflight in this start of the job."""
    past = sessions(place.directory, place.stage.name)
    return any(s.healthy and (s.job, s.restart) == (place.job, place.restart) for s in past)


def _last_output(place: Allocation) -> str:
    """The last line of the batch shell's output, srun's remarks about exit codes left out, as a clause; empty if there is none."""
    try:
        lines = output_file(place.directory, place.job).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    said = [
        line.strip() for line in lines if line.strip() and not re.search(r"Exited with exit code|Terminating", line)
    ]
    return f": {said[-1]}" if said else ""


def _back_to_the_queue(
    place: Allocation, why: str, said: dict[int, End], now: Status
) -> tuple[Literal["failed", "stopped"], str] | None:
    """Requeues the job because of `why`. Returns None, or how the stage ends and its error if the job cannot be requeued."""
    directory, name = place.directory, place.stage.name
    settings = place.submission.settings
    listed = _listed(place)
    if listed is not None and not listed.is_of(place.submission.name):
        return "failed", f"{why}; not requeued, as job {place.job} is {listed.name} and not {place.submission.name}"
    if listed is not None and listed.state != "RUNNING":  # cancelled, or Slurm requeues it itself
        state.write(directory / name, replace(now, state="stopped", error=why))
        return None
    bad = sorted({end.node for end in said.values() if end.kind == "unhealthy"})
    if bad and not settings["avoid_bad_nodes"]:
        return "failed", why
    # a start that a signal ended, such as a preemption, says nothing about the next one
    if bad or not (_began(place) or any(end.kind == "stopped" for end in said.values())):
        record(directory, name, _not_begun(place))
    past, progress = sessions(directory, name), progress_of(directory / name)
    most = int(settings["max_requeues"])
    hopeless = why_give_up(past, place.submission.name, place.restart + 1, most, progress)
    if hopeless:
        return "failed", f"{why}; given up: {hopeless}"
    state.write(directory / name, replace(now, state="stopped", error=why))
    print(f"{name}: {why}; requeued", flush=True)
    try:
        slurm.requeue(place.job, ",".join(bad) or None)
    except slurm.NoAnswer as error:  # some sites have no scontrol on the nodes
        return "stopped", f"{why}; could not be requeued ({error}); launch again to resume"
    return None


def _listed(place: Allocation) -> slurm.Job | None:
    """The job of this process as squeue lists it; None if squeue does not answer."""
    try:
        return slurm.queued([place.job.split("_")[0]]).get(place.job)
    except slurm.NoAnswer:
        return None


def _not_begun(place: Allocation) -> Session:
    return Session(place.submission.name, place.job, place.restart, place.node_list, time.time(), [], healthy=False)

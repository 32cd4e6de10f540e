"""Jobs that Slurm holds in the queue: what holds each of them, and the release of those that Slurm could not start.

Slurm requeues a job whose start fails on the node, for example in the site's prolog, and then holds it. It would wait there
until somebody releases it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dist_advss.errors import UserError

from .. import state
from . import slurm
from .journal import Journal, Submission
from .slurm import Job

MOST = 3  # releases of a job, after which somebody has to look at the nodes
PAUSE_S = 30.0  # seconds between two releases of a job by `watch`
NOT_STARTED = ("launch failed requeued held", "JobHoldMaxRequeue")
BY_SOMEBODY = {
    "JobHeldUser": "held by its user",
    "JobHeldAdmin": "held by an administrator",
    "job requeued in held state": "requeued and held by scontrol requeuehold",
}


def explained(directory: Path, jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs by stage, with a sentence that has the fix in place of Slurm's reason where Slurm holds one."""
    held = {stage: job for stage, job in jobs.items() if _not_started(job) or _by_somebody(job)}
    if not held:
        return dict(jobs)
    journal = Journal(directory)
    return {**jobs, **{stage: replace(job, reason=_why(directory, job, journal)) for stage, job in held.items()}}


def release(journal: Journal, jobs: Mapping[str, Job], pause: float = 0.0) -> list[str]:
    """Releases the jobs that Slurm holds because it could not start them, each at most `MOST` times. Returns a line for each.

    `jobs` by stage. A job that was released less than `pause` seconds ago waits. The caller holds the launch folder's lock.
    """
    lines = []
    for stage, job in jobs.items():
        if not _not_started(job):
            continue
        submission = _submission(journal, job)
        past = submission.released.get(job.id, [])
        if len(past) >= MOST or (past and time.time() - past[-1] < pause):
            continue
        journal.released(submission.name, job.id)
        try:
            slurm.release(job.id)
            lines.append(f"{stage}: job {job.id}, which Slurm could not start, is released")
        except slurm.NoAnswer as error:
            lines.append(f"{stage}: job {job.id}, which Slurm could not start, cannot be released: {error}")
    return lines


def release_if_free(directory: Path, jobs: Mapping[str, Job], pause: float) -> None:
    """`release`, unless a launch is at work in the folder or the folder is not writable."""
    if any(_not_started(job) for job in jobs.values()):
        with contextlib.suppress(UserError), state.owner(directory):
            release(Journal(directory), jobs, pause)


def _not_started(job: Job) -> bool:
    return job.waits and job.reason.replace("_", " ") in NOT_STARTED


def _by_somebody(job: Job) -> str | None:
    return BY_SOMEBODY.get(job.reason) if job.waits else None


def _why(directory: Path, job: Job, journal: Journal) -> str:
    """Why a job is held, and what releases it."""
    who = _by_somebody(job)
    if who:
        return f"{who}; scontrol release {job.id}"
    times = len(_submission(journal, job).released.get(job.id, []))
    if times < MOST:
        return f"held, as Slurm could not start it; dist-advss watch {directory} or the same launch releases it"
    return f"held, as Slurm could not start it {times + 1} times; ask the site about its nodes, then scontrol release {job.id}"


def _submission(journal: Journal, job: Job) -> Submission:
    number = job.id.partition("_")[0]
    return next(s for s in journal.submissions.values() if s.id == number and job.is_of(s.name))

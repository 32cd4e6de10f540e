"""The state of every stage of a launch, from its folders and its Slurm jobs, and the lock of the launch folder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from dist_advss.files import only_process
from dist_advss.runs.metrics import Reader
from dist_advss.runs.state import BROKEN, Status, alive, finished, of_stage, read, skipped, stale, untouched

from .graph import REPORT, Experiment
from .queue.slurm import ELSEWHERE, Job


def look(directory: Path, experiment: Experiment, jobs: Mapping[str, Job] | None = None) -> dict[str, Status]:
    """The status of every stage of a launch folder, in the experiment's order. Reads only.

    `jobs` is the last Slurm job of each stage that was queued.
    """
    statuses: dict[str, Status] = {}
    reader, now = Reader(), time.time()
    for stage in experiment.stages.values():
        job = (jobs or {}).get(stage.name)
        begun = stage.command == REPORT or not untouched(directory / stage.name)
        written = read(directory / stage.name) if begun else Status("waiting")
        has_result = begun and (finished(directory, stage) or stale(directory, stage) is not None)
        if job is None and not begun:
            status = written
        elif job is None or has_result or (written.state == "failed" and not job.goes_on):
            status = of_stage(directory, stage, now, reader)
            # A launch may start a stage that no process is running, even if its last line of metrics is recent.
            if status.state == "running" and not status.job and not alive(directory / stage.name, status):
                status = Status("waiting")
        else:
            status = _of_job(written, job)
        skip = None
        if status.state == "waiting":
            skip = skipped(stage.needs, statuses)
        elif job and written.state == "waiting" and status.state in ("stopped", "died"):
            # Slurm removed the job before it started because a job that it depends on was stopped or failed.
            skip = skipped(stage.needs, statuses, (*BROKEN, "stopped"))
        statuses[stage.name] = replace(skip, job=status.job, nodes=status.nodes) if skip else status
    return statuses


def _of_job(written: Status, job: Job) -> Status:
    """The status of a stage without a result, from its job."""
    known = replace(written, job=job.id, nodes=job.nodes or written.nodes)
    if job.state == ELSEWHERE:  # it may run at any time, so it is not to be queued here
        return replace(known, state="running" if written.state == "running" else "queued", error=job.reason, ended=None)
    if job.waits:
        return replace(known, state="queued", error=job.reason or None, ended=None)
    if job.goes_on:
        return replace(known, state="running", error=None, ended=None)
    if job.state == "CANCELLED":
        return replace(known, state="stopped", error=f"job {job.id} was cancelled; launch again to resume")
    if written.state == "stopped":  # it could not be requeued
        return replace(
            known, state="stopped", error=f"{written.error or 'stopped'} (job {job.id} ended as {job.state})"
        )
    how = f"ended as {job.state}" if job.state != "FORGOTTEN" else "is no longer known to Slurm"
    return replace(known, state="died", error=f"job {job.id} {how} and left no result")


@contextlib.contextmanager
def owner(directory: Path) -> Iterator[TextIO]:
    """Locks the launch folder for this process. Raises UserError if it is not writable or another launch uses it.

    Yields the lock file. The lock is held until the last process that inherited it has ended. The file's pid is for messages.
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

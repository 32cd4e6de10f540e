"""`dist-advss logs`, `cancel` and `attach DIR STAGE`. They work from any shell: the state of a launch is in its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import psutil

from dist_advss.errors import UserError, nearest
from dist_advss.runs.state import UNDER_WAY, process_lives, read
from dist_advss.text import printable

from . import state
from .graph import Experiment
from .job.task import log_file
from .queue import slurm as queue
from .queue import submission as slurm
from .queue.environment import without_job
from .queue.script import output_file
from .status import experiment_of

POLL = 1.0  # seconds between two reads of a log
LOOK = 5.0  # seconds between two queries to Slurm


def logs(directory: Path, stage: str, follow: bool, rank: int) -> int:
    """Prints the log of a stage's process `rank`; with `follow`, continues until the stage has ended."""
    experiment = experiment_of(directory)
    _known(experiment, stage)
    file = log_file(directory, stage, rank)
    shown = 0
    looked = float("-inf")
    while True:
        shown += _print_from(file, shown)
        if not follow:
            break
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            if slurm.look(directory, experiment)[stage].state not in UNDER_WAY:
                time.sleep(POLL)
                shown += _print_from(file, shown)
                break
        time.sleep(POLL)
    if not shown:
        output = slurm_output(directory, stage)
        if output is None:
            raise UserError(f"{stage}: has printed nothing yet{f' as rank {rank}' if rank else ''}")
        print(printable(output.read_text(errors="replace"), keep="\n\r\t"), end="")
    return 0


def slurm_output(directory: Path, stage: str) -> Path | None:
    """The output of the batch shell of a stage's last job, from before Python starts; None if there is none."""
    latest = slurm.Journal(directory).latest().get(stage)
    if latest is None:
        return None
    submission, index = latest
    file = output_file(directory, submission.job(index))
    return file if file.is_file() and file.stat().st_size else None


def cancel(directory: Path, patterns: Sequence[str]) -> int:
    """Cancels the jobs of the stages that match, and of the stages that need them. Their checkpoints stay."""
    experiment = experiment_of(directory)
    with state.owner(directory):  # so that no launch queues more jobs
        chosen = (
            {name for pattern in patterns for name in _matching(experiment, pattern)}
            if patterns
            else set(experiment.stages)
        )
        for stage in experiment.stages.values():
            if chosen & set(stage.needs):
                chosen.add(stage.name)
        jobs = slurm.jobs(directory)
        live = {name: job for name, job in jobs.items() if job.goes_on and name in chosen}
        for name, job in live.items():
            if job.state == queue.ELSEWHERE:
                raise UserError(f"{name}: {job.reason}; cancel it on a login node of that cluster")
        queue.cancel(live.values())
    stopped = [
        name for name in experiment.stages if name in chosen and name not in live and _terminate(directory, name)
    ]
    for name, job in live.items():
        print(f"{name}: job {job.id} cancelled")
    for name in stopped:
        print(f"{name}: sent SIGTERM, saves and stops")
    if not live and not stopped:
        print("nothing was queued or running")
    return 0


def _terminate(directory: Path, stage: str) -> bool:
    """Sends SIGTERM to a stage that runs on this machine, so that it saves and stops. False if none runs."""
    written = read(directory / stage)
    if written.state != "running" or written.job or written.pid is None or not process_lives(written):
        return False
    if not _has_open(written.pid, directory):
        return False
    os.kill(written.pid, signal.SIGTERM)
    return True


def _has_open(pid: int, directory: Path) -> bool:
    """Whether the process has a file of the launch folder open: its log, or the lock of the folder.

    A state.json from somebody else can name any process of yours.
    """
    try:
        files = psutil.Process(pid).open_files()
    except psutil.Error:
        return False
    return any(Path(file.path).is_relative_to(directory.resolve()) for file in files)


def shell(directory: Path, stage: str, command: Sequence[str] = ("bash",)) -> int:
    """Runs a shell (or another command) in a running stage's job, on its first node. Returns the exit code."""
    experiment = experiment_of(directory)
    _known(experiment, stage)
    job = slurm.jobs(directory).get(stage)
    if job is None or job.state != "RUNNING":
        raise UserError(
            f"{stage}: {'not a Slurm job' if job is None else 'not running now'}; dist-advss status {directory}"
        )
    terminal = ["--pty"] if sys.stdin.isatty() else []
    words = ["srun", f"--jobid={_number(job.id)}", "--overlap", "--nodes=1", "--ntasks=1", *terminal, *command]
    return subprocess.run(words, check=False, env=without_job()).returncode


def _number(id: str) -> str:
    """The job's own number. srun needs it for a member of a job array too."""
    if "_" not in id:
        return id
    lines = queue.ask("squeue", "--noheader", f"--jobs={id}", "--format=%A").splitlines()
    return next((line.strip() for line in lines if line.strip().isdigit()), id)


def _print_from(file: Path, start: int) -> int:
    """Prints a file from byte `start` and returns the number of bytes."""
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            new = opened.read()
    except OSError:
        return 0
    sys.stdout.write(printable(new.decode(errors="replace"), keep="\n\r\t"))
    sys.stdout.flush()
    return len(new)


def _known(experiment: Experiment, stage: str) -> None:
    if stage not in experiment.stages:
        raise UserError(f"{stage}: no such stage in {experiment.name}; {nearest(stage, experiment.stages)}")


def _matching(experiment: Experiment, pattern: str) -> list[str]:
    names = [name for name in experiment.stages if fnmatchcase(name, pattern)]
    if not names:
        _known(experiment, pattern)
    return names

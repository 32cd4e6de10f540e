"""Slurm's commands: jobs from squeue, sacct and scontrol, partitions from sinfo, and cancelling and requeueing.

Everything is parsed from output in a fixed format. A line in another one is skipped: a site's wrapper may print a greeting.
squeue lists jobs that are pending or running. Jobs that have ended come from sacct, or from scontrol on clusters without
accounting.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dist_advss.errors import RunError

from .environment import without_job

TIMEOUT_S = 60  # of one command
AT_ONCE = 500  # ids in one command line
ID = re.compile(r"(\d+)([_+]\S*)?")  # 17, 18_3 or 18_[0-4] of an array, 19+1 of a heterogeneous job
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
GOING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


ELSEWHERE = "ELSEWHERE"  # our word for the state of a job of another cluster


class NoAnswer(RunError):
    """Slurm's commands are not installed, or one of them failed."""


@dataclass(frozen=True)
class Job:
    """One job or array task. `state` as Slurm writes it, `reason` why it is pending, `nodes` such as node[1-2].

    `script` is the name of the script that was submitted, without its folder and .sh; empty if Slurm does not tell.
    """

    id: str
    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    script: str = ""

    def is_of(self, submission: str) -> bool:
        """Whether this is the job of a submission. Its script has that name as well, which no `scontrol update` changes."""
        return submission in (self.name, self.script)

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def goes_on(self) -> bool:
        """Pending, running or in between: it has not ended, as far as one can know here."""
        return self.state in (*WAITING, *GOING, ELSEWHERE)


@dataclass(frozen=True)
class Partition:
    """One kind of node in a partition: how many there are and what each has. `minutes` is None without a time limit."""

    name: str
    default: bool
    nodes: int
    cpus: int
    gpus: int
    mem_gb: float
    minutes: int | None


def ask(*command: str) -> str:
    """The output of a Slurm command. Raises NoAnswer with its error message as one line."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=without_job()
        )
    except FileNotFoundError as error:
        raise NoAnswer(f"{command[0]}: command not found; run this on a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{command[0]}: no answer within {TIMEOUT_S} s") from error
    if done.returncode:
        raise NoAnswer(f"{command[0]}: {complaint(done.stderr or done.stdout)}")
    return done.stdout


def complaint(text: str) -> str:
    """Slurm's error message on one line, without the name of the program."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line.strip()) for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines)) or "it failed without an error message"


def jobs(wanted: Mapping[str, str]) -> dict[str, Job]:
    """The jobs with these ids (17, or 18_3 for an array task), by id, if Slurm still knows them. Raises NoAnswer.

    `wanted` maps each id to its submission. Slurm gives an id again when its counter starts anew, so a job with the id but
    of another submission is not the one that is meant.
    """
    bases = sorted({id.split("_")[0] for id in wanted}, key=int)
    found: dict[str, Job] = {}
    for start in range(0, len(bases), AT_ONCE):
        found |= _meant(wanted, queued(bases[start : start + AT_ONCE]))
    missing = sorted({id.split("_")[0] for id in wanted if id not in found}, key=int)
    for start in range(0, len(missing), AT_ONCE):
        found = _meant(wanted, _ended(missing[start : start + AT_ONCE])) | found
    return found


def _meant(wanted: Mapping[str, str], found: Mapping[str, Job]) -> dict[str, Job]:
    return {id: job for id, job in found.items() if id in wanted and job.is_of(wanted[id])}


def queued(ids: Sequence[str]) -> dict[str, Job]:
    """The jobs and array tasks with these numbers that are pending or running or ended recently, by id. Raises NoAnswer."""
    try:
        return _listed(f"--jobs={','.join(ids)}")
    except NoAnswer as error:
        if "Invalid job id" in str(error):  # none of them is in the queue
            return {}
        raise


def in_queue() -> dict[str, Job]:
    """Every job of this user that is pending or running or ended recently, by id. Raises NoAnswer."""
    return _listed("--me")


def _listed(which: str) -> dict[str, Job]:
    """The jobs that squeue lists with the option `which`. With SLURM_CLUSTERS it names the cluster in a line of its own."""
    text = ask("squeue", which, "--array", "--noheader", "--states=all", "--format=%i|%j|%T|%r|%N|%o")
    found = {}
    for line in text.splitlines():
        id, name, state, reason, nodes, command = (line.strip().split("|", 5) + [""] * 6)[:6]
        if name and ID.fullmatch(id):
            found[id] = Job(id, name, state, "" if reason == "None" else reason, nodes, _script(command))
    return found


def _script(command: str) -> str:
    """The name of a script in the command with which it runs or was submitted: p-1a2b in "sbatch --parsable /folder/p-1a2b.sh"."""
    match = re.search(r"([^/\s]+)\.sh\s*$", command)
    return match[1] if match else ""


def named(name: str) -> str | None:
    """The id of the job or array with this name, from squeue or sacct; None if neither lists it. Raises NoAnswer."""
    found = set(_listed(f"--name={name}"))
    if not found:
        try:
            text = ask(
                "sacct",
                "--noheader",
                "--parsable2",
                "--allocations",
                f"--name={name}",
                "--starttime=now-30days",
                "--format=JobID",
            )
        except NoAnswer:
            text = ""
        found = set(text.splitlines())
    numbers = [match[1] for id in found if (match := ID.fullmatch(id.strip()))]
    return min(numbers, key=int, default=None)


def _ended(ids: Sequence[str]) -> dict[str, Job]:
    """The jobs and array tasks with these numbers that have ended, by id."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}"]
    columns = "JobID,JobName,State,NodeList"
    try:
        try:
            text = ask(*command, f"--format={columns},SubmitLine")
        except NoAnswer:  # Slurm before 21.08 has no such column
            text = ask(*command, f"--format={columns}")
    except NoAnswer:
        return _remembered(ids)
    found = {}
    for line in text.splitlines():
        id, name, state, nodes, submitted = (line.split("|", 4) + [""] * 5)[:5]
        nodes = "" if nodes == "None assigned" else nodes
        found[id] = Job(id, name, (state.split() or ["UNKNOWN"])[0], "", nodes, _script(submitted))
    return found


def _remembered(ids: Sequence[str]) -> dict[str, Job]:
    """Ended jobs that the controller still lists, for clusters without accounting."""
    found = {}
    for array in ids:
        try:
            text = ask("scontrol", "--oneliner", "show", "job", array)
        except NoAnswer:
            continue
        for line in text.splitlines():
            values = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobId" not in values:
                continue
            member = values.get("ArrayTaskId")
            id = f"{values.get('ArrayJobId')}_{member}" if member else values["JobId"]
            nodes = "" if values.get("NodeList") == "(null)" else values.get("NodeList", "")
            command = re.search(r" Command=(.*?)(?: \w+=|$)", line)
            script = _script(command[1]) if command else ""
            found[id] = Job(id, values.get("JobName", ""), values.get("JobState", "UNKNOWN"), "", nodes, script)
    return found


def partitions() -> list[Partition]:
    """Every partition, one entry for each kind of node in it. Raises NoAnswer."""
    found = []
    for line in ask("sinfo", "--noheader", "--format=%P|%D|%c|%m|%l|%G").splitlines():
        columns = line.strip().split("|", 5)
        if len(columns) < 6 or not columns[1][:1].isdigit():
            continue
        name, nodes, cpus, memory, limit, gres = columns
        gpus = sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))
        number = [int(re.sub(r"\D", "", text) or 0) for text in (nodes, cpus, memory)]
        found.append(
            Partition(
                name.rstrip("*"), name.endswith("*"), number[0], number[1], gpus, number[2] / 1024, _minutes(limit)
            )
        )
    return found


def _minutes(limit: str) -> int | None:
    """Minutes of a time limit as sinfo writes it (days-hours:minutes:seconds); None for infinite."""
    if not re.match(r"\d", limit):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, minutes = ([0] * (3 - len(parts)) + parts)[:2]
    return int(days or 0) * 1440 + hours * 60 + minutes


def cancel(jobs: Iterable[Job]) -> None:
    """Cancels these jobs, pending or running. Slurm compares the names too, as squeue gave them.

    A job may end meanwhile: Slurm itself cancels the jobs that need a cancelled one (--kill-on-invalid-dep). Raises
    NoAnswer, after every job was tried, if scancel refused one that still goes on.
    """
    alike: dict[str, list[str]] = {}
    for job in jobs:
        alike.setdefault(job.name, []).append(job.id)
    refused: dict[str, NoAnswer] = {}
    for name, ids in alike.items():
        try:
            ask("scancel", f"--name={name}", *ids)
        except NoAnswer as error:
            refused |= dict.fromkeys(ids, error)
    if refused:
        left = queued(sorted({id.split("_")[0] for id in refused}, key=int))
        for id, refusal in refused.items():
            if id in left and left[id].goes_on:
                raise refusal


def release(id: str) -> None:
    """Releases a job that is held. Raises NoAnswer."""
    ask("scontrol", "release", id)


def requeue(id: str, without: str | None = None) -> None:
    """Requeues a running job, from inside it, and excludes the node `without` if one is given. Raises NoAnswer."""
    ask("scontrol", "requeue", id)
    if without:
        excluded = re.search(r"ExcNodeList=(\S+)", ask("scontrol", "--oneliner", "show", "job", id))
        before = [excluded[1]] if excluded and excluded[1] != "(null)" else []
        ask("scontrol", "update", f"JobId={id}", f"ExcNodeList={','.join([*before, without])}")

"""Slurm's commands: jobs from squeue, sacct and scontrol, partitions from sinfo, and cancelling and requeueing.

Everything is parsed from output in a fixed format. squeue lists jobs that are pending or running. Jobs that have ended come
from sacct, or from scontrol on clusters without accounting.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dist_advss.errors import RunError

from .environment import without_job

TIMEOUT_S = 60  # of one command
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
GOING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


class NoAnswer(RunError):
    """Slurm's commands are not installed, or one of them failed."""


@dataclass(frozen=True)
class Job:
    """One job or array task. `state` as Slurm writes it, `reason` why it is pending, `nodes` such as node[1-2]."""

    id: str
    name: str
    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def goes_on(self) -> bool:
        """Pending, running or in between: it has not ended."""
        return self.state in WAITING or self.state in GOING


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


def jobs(ids: Iterable[str]) -> dict[str, Job]:
    """These jobs (17, or 18_3 for an array task), by id, without those that Slurm no longer knows. Raises NoAnswer."""
    wanted = set(ids)
    if not wanted:
        return {}
    found = {id: job for id, job in in_queue().items() if id in wanted}
    missing = wanted - set(found)
    return found | {id: job for id, job in _ended(missing).items() if id in missing}


def in_queue() -> dict[str, Job]:
    """Every job of this user that is pending or running or ended recently, by id. Raises NoAnswer."""
    text = ask("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%j|%T|%r|%N")
    found = {}
    for line in text.splitlines():
        id, name, state, reason, nodes = (line.strip().split("|") + [""] * 5)[:5]
        found[id] = Job(id, name, state, "" if reason == "None" else reason, nodes)
    return found


def named(name: str) -> str | None:
    """The id of the job or array with this name, from squeue or sacct; None if neither lists it. Raises NoAnswer."""
    found = {job.id for job in in_queue().values() if job.name == name}
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
        found = set(text.split())
    return min((id.split("_")[0] for id in found), default=None)


def _ended(ids: set[str]) -> dict[str, Job]:
    if not ids:
        return {}
    arrays = ",".join(sorted({id.split("_")[0] for id in ids}))
    try:
        text = ask(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={arrays}", "--format=JobID,JobName,State,NodeList"
        )  # fmt: skip
    except NoAnswer:
        return _remembered(arrays.split(","))
    found = {}
    for line in text.splitlines():
        id, name, state, nodes = (line.split("|") + [""] * 4)[:4]
        found[id] = Job(id, name, (state.split() or ["UNKNOWN"])[0], "", "" if nodes == "None assigned" else nodes)
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
            member = values.get("ArrayTaskId")
            id = f"{values.get('ArrayJobId')}_{member}" if member else values.get("JobId", array)
            nodes = values.get("NodeList", "")
            found[id] = Job(
                id, values.get("JobName", ""), values.get("JobState", "UNKNOWN"), "", "" if nodes == "(null)" else nodes
            )
    return found


def partitions() -> list[Partition]:
    """Every partition, one entry for each kind of node in it. Raises NoAnswer."""
    found = []
    for line in ask("sinfo", "--noheader", "--format=%P|%D|%c|%m|%l|%G").splitlines():
        name, nodes, cpus, memory, limit, gres = line.strip().split("|", 5)
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


def cancel(ids: Sequence[str]) -> None:
    """Cancels these jobs, pending or running. Raises NoAnswer."""
    ask("scancel", *ids)


def requeue(id: str, without: str | None = None) -> None:
    """Requeues a running job, from inside it, and excludes the node `without` if one is given. Raises NoAnswer."""
    ask("scontrol", "requeue", id)
    if without:
        excluded = re.search(r"ExcNodeList=(\S+)", ask("scontrol", "--oneliner", "show", "job", id))
        before = [excluded[1]] if excluded and excluded[1] != "(null)" else []
        ask("scontrol", "update", f"JobId={id}", f"ExcNodeList={','.join([*before, without])}")

"""The task of a Slurm job that this process is: its stage, rank and nodes, from Slurm's environment variables."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from submitit.slurm.slurm import SlurmJobEnvironment

from dist_advss.errors import RunError

from ..graph import Stage
from ..queue import slurm, tasks
from ..queue.journal import Submission
from ..queue.script import PORT

PORTS = (
    12_000,
    20_000,
)  # first port and number of ports for MASTER_PORT; Linux gives outgoing connections those from 32768 on


@dataclass(frozen=True)
class Allocation:
    """One task of a job, or its batch shell (as rank 0). `job` is 17 or 18_3, `restart` the number of requeues."""

    directory: Path
    submission: Submission
    stage: Stage
    job: str
    restart: int
    rank: int
    ranks: int
    local_rank: int
    node: str
    nodes: tuple[str, ...]
    root: str | None = None

    @property
    def node_list(self) -> str:
        return os.environ.get("SLURM_JOB_NODELIST", ",".join(self.nodes))


def find(directory: Path, name: str, environment: Mapping[str, str] = os.environ) -> Allocation:
    """The task of submission `name` that this process is. Raises RunError if the launch folder has no such submission."""
    submission, task = tasks.read(directory, name, environment.get("SLURM_ARRAY_TASK_ID"))
    job = SlurmJobEnvironment()  # JobEnvironment asks a variable that submitit's script sets only before srun
    single = -1 in submission.stages
    return Allocation(
        directory=directory,
        submission=submission,
        stage=task.stage,
        job=job.raw_job_id if single else job.job_id,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        rank=job.global_rank,
        # a batch shell may have no SLURM_NTASKS
        ranks=job.num_tasks if environment.get("SLURM_NTASKS") else int(submission.settings["ranks"]),
        local_rank=job.local_rank,
        node=environment.get("SLURMD_NODENAME") or job.hostname,
        nodes=tuple(job.hostnames),
        root=task.root,
    )


def refuse_other_world(place: Allocation, environment: Mapping[str, str] = os.environ) -> None:
    """Raises RunError unless this process is one of as many as the stage was queued for. Otherwise it might train alone."""
    from dist_advss.engines.environment import (
        find_place,
    )  # its package imports torch, which the batch shell can do without

    asked = int(place.submission.settings["ranks"])
    found = find_place(environment)
    if (place.ranks, found.world_size, found.rank) != (asked, asked, place.rank):
        raise RunError(
            f"job {place.job} was queued for {asked} processes, but this one is rank {found.rank} of {found.world_size} "
            f"in {place.ranks} Slurm tasks; check what changes SLURM_NTASKS or srun's options here"
        )


def rendezvous(place: Allocation, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT of a job with several ranks. The batch shell, on the node of rank 0, has chosen the port."""
    port = environment.get(PORT) or str(first_port(environment))
    return {"MASTER_ADDR": address_of(place.nodes[0], environment), "MASTER_PORT": port}


def first_port(environment: Mapping[str, str] = os.environ) -> int:
    """A port that comes from the job id, so that two jobs on a node differ."""
    return PORTS[0] + (2 * int(environment.get("SLURM_JOB_ID", 0))) % PORTS[1]


def free_port(first: int) -> int:
    """The port `first` if nothing on this machine listens on it or the next one, else another such port.

    The preflight takes the second of the two. Other jobs' ports are even steps from `first`, so a random one is likely to
    stay free. Raises RunError.
    """
    for port in [first, *(PORTS[0] + 2 * secrets.randbelow(PORTS[1] // 2) for _ in range(100))]:
        if _free(port) and _free(port + 1):
            return port
    raise RunError(f"no free port from {PORTS[0]} to {sum(PORTS)} on {socket.gethostname()}")


def _free(port: int) -> bool:
    """Whether a process could listen on a port, at all addresses, as torch does."""
    for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are closing do not count
                probe.bind((every, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # others: this machine has no IPv6
                return False
    return True


def address_of(node: str, environment: Mapping[str, str] = os.environ) -> str:
    """The name of a node if it resolves, else the address that Slurm has for it. Raises NoAnswer."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        try:
            output = slurm.ask("scontrol", "--oneliner", "show", "node", node)
        except slurm.NoAnswer:  # some sites have no scontrol on the nodes; srun runs on the first one
            if "SLURM_LAUNCH_NODE_IPADDR" not in environment:
                raise
            return environment["SLURM_LAUNCH_NODE_IPADDR"]
        return next((word.partition("=")[2] for word in output.split() if word.startswith("NodeAddr=")), node)

"""Where a job stands: its launch folder, its stage, its ranks and nodes, from submitit's view of Slurm's variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment

from dist_advss.errors import RunError

from ..graph import Stage, stored
from ..queue import slurm as queue
from ..queue.journal import Journal, Submission

PORTS = 12_000, 20_000  # the first port for a rendezvous, and how many; outgoing connections take those from 32768 on


@dataclass(frozen=True)
class Allocation:
    """One task of a job, or its batch shell (rank 0). `job` as 17 or 18_3, `restart` how often it was requeued."""

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

    @property
    def node_list(self) -> str:
        return os.environ.get("SLURM_JOB_NODELIST", ",".join(self.nodes))


def find(directory: Path, name: str, environment: Mapping[str, str] = os.environ) -> Allocation:
    """The task of submission `name` that this process is. Raises RunError outside a job of ours."""
    submission = Journal(directory).submissions.get(name)
    experiment = stored(directory)
    if submission is None or experiment is None:
        raise RunError(f"{directory}: no submission {name} in it")
    slurm = JobEnvironment()
    stage = submission.stages[int(slurm.array_task_id) if slurm.array_task_id and -1 not in submission.stages else -1]
    return Allocation(
        directory=directory,
        submission=submission,
        stage=experiment.stages[stage],
        job=slurm.job_id,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        rank=slurm.global_rank,
        ranks=slurm.num_tasks,
        local_rank=slurm.local_rank,
        node=environment.get("SLURMD_NODENAME") or slurm.hostname,
        nodes=tuple(slurm.hostnames),
    )


def rendezvous(place: Allocation, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT of a job with several ranks; two jobs on one node differ in their ports."""
    number = int(environment.get("SLURM_JOB_ID", 0))
    port = PORTS[0] + (2 * number) % PORTS[1]
    return {"MASTER_ADDR": address_of(place.nodes[0]), "MASTER_PORT": str(port)}


def address_of(node: str) -> str:
    """A node's name where it can be looked up, else the address that Slurm has for it."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        said = queue.ask("scontrol", "--oneliner", "show", "node", node)
        return next((word.partition("=")[2] for word in said.split() if word.startswith("NodeAddr=")), node)

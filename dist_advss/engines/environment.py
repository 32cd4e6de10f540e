"""Reads the rank and the world size of this process from torchrun's or srun's variables."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..cores import is_task, tasks_here
from ..errors import UserError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
HOST = re.compile(r"[\w.-]+(\[[\w,-]+\])?")


@dataclass(frozen=True)
class Place:
    """The rank of one process, on its node and in the world, and the address where all meet (None: a single process)."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str | None = None
    port: int = 0
    started_by: str = "alone"


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process, from its environment variables.

    torchrun's variables take precedence, so you can set them by hand. Next come those of an srun or submitit task. A
    batch script or a shell inside an allocation is a single process: it has Slurm's variables, but srun did not start it.
    Raises UserError when a variable is missing or is not a number, and in an srun task with variables of another torchrun.
    """
    try:
        task = is_task(environment)
        if "RANK" in environment and "WORLD_SIZE" in environment:
            place = _torchrun(environment)
            if task and "TORCHELASTIC_RUN_ID" not in environment:
                _refuse_inherited(place, _srun(environment))
            return place
        if task:
            return _srun(environment)
    except KeyError as error:
        raise UserError(
            f"environment: {error.args[0]} is missing; torchrun sets {', '.join(TORCHRUN)}, srun sets SLURM_*"
        ) from error
    except ValueError as error:
        raise UserError(f"environment: {error}; start with torchrun or srun, or unset these variables") from error
    return Place()


def check_nodes(engine: str, places: Sequence[tuple[int, int]]) -> None:
    """Raises UserError unless every node has equally many processes, with consecutive ranks.

    `places` has the local rank and the number of processes of its node of each rank.
    """
    sizes = sorted({size for _, size in places})
    if len(sizes) > 1 or len(places) % sizes[0]:
        raise UserError(
            f"engine={engine}: {len(places)} processes, {' or '.join(map(str, sizes))} on a node; it shards over the processes "
            "of a node and needs equally many on each: start so, or choose engine=fsdp"
        )
    for rank, (local_rank, size) in enumerate(places):
        if local_rank != rank % size:
            raise UserError(
                f"engine={engine}: rank {rank} has local rank {local_rank} of {size}, not {rank % size}; number the ranks node "
                "by node (torchrun, srun --distribution=block) and set LOCAL_WORLD_SIZE, or choose engine=fsdp"
            )


def _torchrun(environment: Mapping[str, str]) -> Place:
    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK={rank} is not below WORLD_SIZE={world_size}")
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=int(environment["LOCAL_RANK"]),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
        started_by="torchrun",
    )


def _refuse_inherited(place: Place, task: Place) -> None:
    """Raises UserError if the tasks of an srun cannot have these ranks: a shell before sbatch has left its own in the variables.

    Each task would train alone as rank 0. A launcher inside a task may start several processes, so more ranks than tasks
    are possible.
    """
    alike = place.world_size == task.world_size and place.rank != task.rank
    if place.world_size < task.world_size or alike:
        raise UserError(
            f"environment: RANK={place.rank} of WORLD_SIZE={place.world_size} in task {task.rank} of {task.world_size} of an "
            "srun; unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT, which an earlier program has left, before srun"
        )


def _srun(environment: Mapping[str, str]) -> Place:
    world_size = int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"])
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    # Linux gives outgoing connections ports from 32768 up. Two jobs on a node have different ids, so different ports.
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        world_size=world_size,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_world_size=tasks_here(environment),
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=int(environment.get("MASTER_PORT") or 12000 + (job * 7 + step) % 20000),
        started_by="srun",
    )


def first_host(nodes: str) -> str:
    """The first name of a Slurm list of nodes such as gpu[007-009,12],login."""
    match = HOST.match(nodes)
    if match is None:
        raise ValueError(f"{nodes!r} is not a list of nodes")
    name = match[0]
    if "[" not in name:
        return name
    stem, _, inside = name.partition("[")
    try:  # scontrol reads every form of the list, but not every machine has it
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        lines = listed.stdout.splitlines()
        return next(line for line in lines if line.startswith(stem) and " " not in line)  # a wrapper may print more
    except (OSError, subprocess.CalledProcessError, StopIteration):
        return stem + re.split(r"[,\-\]]", inside)[0]

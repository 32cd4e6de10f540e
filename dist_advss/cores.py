"""The CPU cores of this process, from its affinity and from what Slurm and torchrun leave in the environment.

Slurm binds a task to its cores only where the site has task/affinity or cgroups. Elsewhere a process sees every core of the
node, also those of other jobs, so the environment counts as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def usable_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The number of cores that this process may use, at least 1. A task of srun may use its own, a batch script those of the job."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    of_job = int(environment.get("SLURM_CPUS_ON_NODE") or bound)
    if not is_task(environment):
        return max(1, min(bound, of_job))
    per_task = int(environment.get("SLURM_CPUS_PER_TASK") or max(1, of_job // tasks_here(environment)))
    return max(1, min(bound, per_task))


def share_of_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The number of cores for this process, at least 1, where the processes that torchrun has started divide the usable ones."""
    return max(1, usable_cores(environment) // int(environment.get("LOCAL_WORLD_SIZE") or 1))


def is_task(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process. Slurm numbers batch scripts and interactive shells from the top of 32 bits."""
    if not (environment.get("SLURM_PROCID") and environment.get("SLURM_STEP_ID")):
        return False
    return int(environment["SLURM_STEP_ID"]) < 2**32 - 16 and environment.get("SLURM_NTASKS", "1") != ""


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether torchrun or srun started this process, perhaps with others."""
    return "RANK" in environment or is_task(environment)


def tasks_here(environment: Mapping[str, str]) -> int:
    """The number of srun's tasks on this node, from a list such as 4(x2),3."""
    tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1"
    counts: list[int] = []
    for part in tasks_per_node.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[min(int(environment.get("SLURM_NODEID", 0)), len(counts) - 1)]

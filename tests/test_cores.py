"""How many cores a process takes, next to other processes of its job and other jobs of its node."""

from __future__ import annotations

import os

import pytest

from dist_advss.cores import share_of_cores, usable_cores

TASK = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}


@pytest.mark.parametrize(
    ("bound", "environment", "usable", "share"),
    [
        (16, {}, 16, 16),
        (16, {"LOCAL_WORLD_SIZE": "4"}, 16, 4),  # torchrun on a machine of one's own
        (64, {"SLURM_CPUS_ON_NODE": "8", "LOCAL_WORLD_SIZE": "4"}, 8, 2),  # torchrun in a batch script, next to other jobs
        (64, TASK | {"SLURM_CPUS_ON_NODE": "32", "SLURM_CPUS_PER_TASK": "6"}, 6, 6),  # nothing binds the task
        (6, TASK | {"SLURM_CPUS_ON_NODE": "32", "SLURM_CPUS_PER_TASK": "6"}, 6, 6),  # task/affinity binds it
        (64, TASK | {"SLURM_CPUS_ON_NODE": "32"}, 8, 8),
        (8, TASK | {"SLURM_CPUS_ON_NODE": "32"}, 8, 8),
        (32, TASK | {"SLURM_CPUS_PER_TASK": "32", "SLURM_CPUS_ON_NODE": "32", "LOCAL_WORLD_SIZE": "4"}, 32, 8),  # srun torchrun
        (64, TASK | {"SLURM_STEP_ID": "4294967291", "SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "8"}, 8, 8),  # batch shell
        (1, TASK | {"SLURM_CPUS_ON_NODE": "2"}, 1, 1),
        (2, {"LOCAL_WORLD_SIZE": "4"}, 2, 1),
    ],
)  # fmt: skip
def test_a_process_takes_its_share_of_what_its_job_has(
    bound: int, environment: dict[str, str], usable: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
    assert (usable_cores(environment), share_of_cores(environment)) == (usable, share)


@pytest.mark.parametrize(("given", "threads"), [({}, 3), ({"OMP_NUM_THREADS": "5"}, None)])
def test_torch_has_as_many_threads_as_its_task_of_srun_has_cores(
    given: dict[str, str], threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from dist_advss.engines.environment import Place
    from dist_advss.engines.world import choose_device

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in (TASK | {"SLURM_CPUS_PER_TASK": "3"} | given).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    choose_device("cpu", None, Place())
    assert chosen == ([threads] if threads else [])
    choose_device("cpu", 2, Place())  # train.threads=2
    assert chosen[-1] == 2

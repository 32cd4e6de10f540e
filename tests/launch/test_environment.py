"""Launching from inside a job, under torchrun, or with settings for Slurm's commands: none of it reaches the new job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_advss.errors import RunError
from launch.control import cancel, shell
from launch.graph import Stage
from launch.job.allocation import Allocation, find, refuse_other_world
from launch.profile import Slurm
from launch.queue import batches, script, tasks
from launch.queue import slurm as queue
from launch.queue.environment import for_sbatch, without_job
from launch.queue.journal import Journal
from launch.submit import launch
from tests.launch.test_profiles import flags

INSIDE = {  # a task of an array's srun, under torchrun, on a site with settings
    "SLURM_JOB_ID": "900", "SLURM_ARRAY_JOB_ID": "899", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "3",
    "SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURMD_NODENAME": "node9", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_MEM_PER_CPU": "100", "SLURM_EXPORT_ENV": "NONE", "SLURM_GPUS": "1", "SRUN_CPUS_PER_TASK": "1",
    "SBATCH_EXPORT": "NONE", "SBATCH_TIMELIMIT": "1", "SBATCH_MEM_PER_CPU": "100", "SUBMITIT_PREEMPT_SIGNAL": "USR1",
    "SUBMITIT_EXECUTOR": "slurm", "SQUEUE_PARTITION": "other", "SCANCEL_INTERACTIVE": "1", "SINFO_FORMAT": "%P",
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x", "CUDA_VISIBLE_DEVICES": "3", "PMI_RANK": "0",
}  # fmt: skip
OURS = {
    "SLURM_CONF": "/etc/own.conf", "SLURM_CLUSTERS": "big", "PATH": "/bin", "OMP_NUM_THREADS": "2", "NCCL_DEBUG": "WARN",
    "TORCHELASTIC_ERROR_FILE": "/x", "RANKS": "5",
}  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_a_variable_of_the_job_around_is_left_out(name: str) -> None:
    assert without_job(OURS | {name: INSIDE[name]}) == OURS
    assert for_sbatch(Slurm(), OURS | {name: INSIDE[name]}) == OURS


@pytest.mark.parametrize("name", ["ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "RESERVATION"])
def test_a_default_of_the_site_holds_until_the_profile_has_a_value(name: str) -> None:
    site = {f"SBATCH_{name}": "site"}
    assert for_sbatch(Slurm(), site) == site
    assert for_sbatch(dataclasses.replace(Slurm(), **{name.lower(): "own"}), site) == {}
    assert without_job(site) == {}


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INSIDE.items():
        monkeypatch.setenv(name, value)


def test_every_command_of_slurm_is_called_without_them(
    inside: None, chain: str, tmp_path: Path, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    real = queue.subprocess.run

    def run(words: Any, **options: Any) -> Any:
        seen.setdefault(words[0], set()).update(options.get("env") or {"no environment of its own", *INSIDE})
        return real(words, **options)

    (fake_slurm.file.parent / "srun").symlink_to("/bin/true")
    monkeypatch.setattr(queue.subprocess, "run", run)
    assert launch(chain, "slurm", tmp_path / "out", ["cluster.partition=main"]) == 0
    fake_slurm.end("1", state="RUNNING")
    assert shell(tmp_path / "out", "p1_finetune", ["hostname"]) == 0
    assert cancel(tmp_path / "out", []) == 0
    seen.pop("git", None)
    assert set(seen) >= {"sbatch", "squeue", "sinfo", "srun", "scancel"}
    assert {name: variables & set(INSIDE) for name, variables in seen.items()} == {name: set() for name in seen}


def test_the_script_names_the_signal_and_the_export_itself(inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.core.job_environment import JobEnvironment

    monkeypatch.setattr(JobEnvironment, "USR_SIG", "USR1")  # as SUBMITIT_PREEMPT_SIGNAL does when submitit is imported
    (batch,) = batches.plan([Stage("a", "pretrain", (), ())], Slurm(signal_seconds=50), {})
    shown = script.text(Path("/out"), batch, Path("/code"), {})
    assert (flags(shown)["signal"], flags(shown)["export"]) == ("USR2@50", "ALL")
    (srun,) = [line for line in shown.splitlines() if line.startswith("srun ")]
    assert "--export=ALL" in srun


@pytest.fixture
def queued(tmp_path: Path) -> Callable[..., Path]:
    """A launch folder with what the jobs of two submissions read: `one` of a single stage, and `many`, an array."""
    a, b, c = (tasks.Task(Stage(name, "pretrain", (), ())) for name in "abc")
    tasks.write(tmp_path, "one", {-1: a}, "c0de", {"ranks": 4})
    tasks.write(tmp_path, "many", {0: b, 1: c}, "c0de", {"ranks": 1})
    return lambda: tmp_path


TASK = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NAME": "one",
}  # fmt: skip


def here(directory: Path, name: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Allocation:
    for variable, value in (TASK | variables).items():
        monkeypatch.setenv(variable, value)
    return find(directory, name)


def test_a_single_job_has_its_own_id_whatever_array_is_in_the_environment(
    queued: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "1"}
    assert here(queued(), "one", monkeypatch, **array).job == "17"
    assert here(queued(), "many", monkeypatch, **array).job == "16_1"


@pytest.mark.parametrize(
    ("variables", "fits"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}, False),
        ({"SLURM_NTASKS": "2"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
    ],
)  # fmt: skip
def test_a_world_that_is_not_the_one_asked_for_is_refused(
    variables: dict[str, str], fits: bool, queued: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = here(queued(), "one", monkeypatch, **variables)
    if fits:
        refuse_other_world(place)
    else:
        with pytest.raises(RunError, match=r"queued for 4 processes, but this one is rank \d of"):
            refuse_other_world(place)


def test_a_batch_shell_without_a_number_of_tasks_reads_that_of_the_submission(
    queued: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert find(queued(), "one").ranks == 4


def test_the_number_of_processes_is_in_the_journal(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    words = ["cluster.pretrain.nodes=2", "cluster.pretrain.tasks_per_node=2"]
    launch(chain, "slurm", tmp_path / "out", words)
    ranks = {s.stages[-1]: s.settings["ranks"] for s in Journal(tmp_path / "out").submissions.values()}
    assert ranks == {"p1_finetune": 1, "p3_pretrain": 4, "p3_finetune": 1, "p1_evaluate": 1, "p3_evaluate": 1}

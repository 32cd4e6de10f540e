"""Habits and sites that are not those of the other tests, such as a clone that is edited after the launch."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.cli import main
from launch.job.allocation import first_port
from launch.job.sessions import sessions
from launch.profile import Slurm
from launch.queue import slurm as queue
from launch.queue.journal import Journal
from launch.queue.limits import limits, of_accounting
from launch.queue.script import output_file
from launch.queue.snapshot import PACKAGES
from slurm.devcluster.cluster import DevCluster
from tests.slurm.conftest import PATIENCE, Launch, slurm_command
from tests.slurm.test_faults import resumed_at, steps

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = """
  [attack=fgsm, data.limit=96, schedule.epochs=1, model.width=8, train.batch_size=16, train.log_every=1,
   validation.limit=20, validation.steps=1, device=cpu]
"""


def python(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder as a user there would: PYTHONPATH does not name the code under test."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_clone_that_is_edited_after_the_launch_does_not_change_its_jobs(
    launch: Callable[..., Launch], closed: None, tmp_path: Path, repository: Path
) -> None:
    clone = tmp_path / "clone"
    for package in PACKAGES:
        shutil.copytree(repository / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = f"""
common: {{pretrain: {SMALL}}}
stages:
  p: {{command: pretrain, overrides: [tracking.wandb=offline]}}
  f: {{command: finetune, overrides: [init=./before, attack=none, data.limit=40, schedule.epochs=1, train.batch_size=16,
       validation.limit=20, validation.steps=1, device=cpu]}}
"""
    launched = launch(text)
    made = python(
        "-m", "dist_advss", "pretrain", "attack=none", "data.limit=40", "schedule.epochs=1", "model.width=8",
        "train.batch_size=16", "validation.limit=20", "validation.steps=1", "device=cpu", "out=before", cwd=clone,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = python("-m", "dist_advss", "launch", *launched.words, f"out={launched.directory}", cwd=clone)
    assert done.returncode == 0, done.stderr
    for package in ("dist_advss", "launch"):
        (clone / package / "__init__.py").write_text("raise SystemExit('the edited clone')\n")
    slurm_command("scontrol", "update", "PartitionName=main", "State=UP")
    states = launched.wait()
    assert {name: state.state for name, state in states.items()} == {"p": "finished", "f": "finished"}, launched.story()


def test_a_launch_from_a_task_of_an_array_has_jobs_of_its_own(
    launch: Callable[..., Launch], devcluster: DevCluster, tmp_path: Path, repository: Path
) -> None:
    """The task has an id, a memory limit, a CPU mask and ranks, and the site exports nothing. None of it reaches the jobs."""
    text = f"common: {{pretrain: {SMALL.replace('epochs=1', 'epochs=3')}}}\nstages: {{struck: {{command: pretrain}}}}\n"
    launched = launch(text, "cluster.mem_gb=0.8", "cluster.signal_seconds=20")
    inside = (
        "export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=1 SBATCH_EXPORT=NONE SBATCH_TIMELIMIT=1 "
        "SUBMITIT_PREEMPT_SIGNAL=USR1 SLURM_CPU_BIND=quiet,mask_cpu:0x1 SQUEUE_STATES=COMPLETED\n"
        f"cd {repository} && {shlex.join([sys.executable, '-m', 'dist_advss', 'launch', *launched.words])} out={launched.directory}"
    )
    (tmp_path / "inside.sh").write_text(inside)
    parent = slurm_command(
        "sbatch", "--parsable", "--partition=urgent", "--array=0-1", "--mem-per-cpu=700", f"--output={tmp_path}/parent-%a.txt",
        f"--wrap=[ $SLURM_ARRAY_TASK_ID = 0 ] || srun --ntasks=1 bash {tmp_path}/inside.sh",
    ).strip()  # fmt: skip
    end = time.monotonic() + PATIENCE
    while steps(launched, "struck") < 3:
        assert time.monotonic() < end, (tmp_path / "parent-1.txt").read_text()
        time.sleep(0.5)
    job = launched.states()["struck"].job
    assert job and job.isdigit() and job != parent
    slurm_command("scancel", "--signal=USR2", job)
    states = launched.wait()
    assert states["struck"].state == "finished", launched.story()
    assert states["struck"].job == job and len(resumed_at(launched, "struck")) == 1, launched.story()
    assert "rank 0 of 4" in launched.log("struck")
    ended = queue.jobs(dict.fromkeys([f"{parent}_0", f"{parent}_1"], "wrap"))
    assert {done.state for done in ended.values()} == {"COMPLETED"}
    starts = [line for line in (tmp_path / "parent-1.txt").read_text().splitlines() if line.startswith("job ")]
    assert starts == [f"job {job}: struck  [2 x 2 tasks]"]


@pytest.mark.parametrize("name", ["devcluster", "other"])
def test_a_job_with_the_same_id_is_left_alone_on_another_cluster_and_after_a_reset(
    name: str, launch: Callable[..., Launch], closed: None, another: Callable[..., DevCluster],
    devcluster: DevCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    launched = launch("stages: {p: {command: pretrain, overrides: [attack=none]}}\n")
    assert launched.run() == 0
    job = launched.states()["p"].job or ""
    another(f"FirstJobId={job}\n", name)
    assert slurm_command("sbatch", "--parsable", "--hold", "--job-name=theirs", "--wrap=true").strip() == job
    capsys.readouterr()
    if name == "other":
        assert launched.states()["p"].error == f"job {job} belongs to cluster devcluster, and this is other"
        assert main(["cancel", str(launched.directory)]) == 2
        assert launched.run() == 0
        assert [there.name for there in queue.in_queue().values()] == ["theirs"]
    else:
        assert launched.states()["p"].error == f"job {job} is no longer known to Slurm and left no result"
        assert main(["cancel", str(launched.directory)]) == 0
        assert launched.run() == 0  # queued again, as it is lost
        assert int(launched.states()["p"].job or 0) > int(job)
    assert queue.in_queue()[job].waits
    if name == "other":
        monkeypatch.setenv("SLURM_CONF", devcluster.environment["SLURM_CONF"])
        assert launched.states()["p"].state == "queued"
        assert main(["cancel", str(launched.directory)]) == 0
        assert launched.states()["p"].state == "stopped"


def test_arrays_have_the_size_that_the_cluster_allows(
    launch: Callable[..., Launch], another: Callable[..., DevCluster]
) -> None:
    another("MaxArraySize=4\n")  # slurmctld reads it once
    slurm_command("scontrol", "update", "PartitionName=main", "State=DOWN")
    assert limits(Slurm()).array == 4
    text = """
stages:
  "p_{n}": {matrix: {n: [0, 1, 2, 3, 4, 5, 6]}, command: pretrain, overrides: [attack=none, "seed={n}"]}
  "f_{n}": {matrix: {n: [0, 1, 2, 3, 4, 5, 6]}, command: finetune, overrides: [attack=none, "init=@p_{n}"]}
  r: {command: report}
"""
    launched = launch(text, "cluster.pretrain.nodes=1", "cluster.pretrain.gpus_per_node=1")
    assert launched.run() == 0
    names = [(job.name.rpartition("-")[0], id.partition("_")[2]) for id, job in queue.in_queue().items() if job.waits]
    expected = [(name, str(n)) for name in ("pretrains", "finetunes") for n in (0, 1, 2, 3, 0, 1, 2)]
    assert sorted(names) == sorted([*expected, ("r", "")])
    waits = slurm_command("squeue", "--noheader", "--name=" + queue_name(launched, "r"), "--format=%E")
    assert waits.count("afterok") == 2, waits  # the two arrays of fine-tunings
    assert launched.run() == 0
    assert sum(job.waits for job in queue.in_queue().values()) == 15


def queue_name(launched: Launch, stage: str) -> str:
    return Journal(launched.directory).latest()[stage][0].name


def test_submit_limits_are_read_as_sacctmgr_prints_them(devcluster: DevCluster) -> None:
    for words in (
        ["account", "lab"],
        ["user", "root", "account=lab", "MaxSubmitJobs=30"],
        ["qos", "short", "MaxSubmitJobsPerUser=5"],
    ):
        slurm_command("sacctmgr", "--immediate", "add", *words)
    assert of_accounting(Slurm(account="lab"), "devcluster") == {"MaxSubmitJobs of account lab": 30}
    assert of_accounting(Slurm(account="lab", qos="short"), "devcluster") == {
        "MaxSubmitJobs of account lab": 30,
        "MaxSubmitJobsPerUser of qos short": 5,
    }
    assert of_accounting(Slurm(account="lab", qos="normal"), "elsewhere") == {}


def without_tools(folder: Path, *hidden: str) -> str:
    """A PATH with every program of this machine but the hidden ones."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / program.name
            link.unlink(missing_ok=True)
            if program.name not in hidden:
                link.symlink_to(program)
    return str(folder)


def test_where_the_nodes_have_no_client_tools_the_next_launch_resumes(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    """Two ranks on two nodes meet there, too, although only scontrol knows the nodes' addresses."""
    path = without_tools(tmp_path / "bin", "scontrol", "squeue", "sbatch", "sacct", "scancel", "sinfo")
    text = f"""
common: {{pretrain: {SMALL.replace("epochs=1", "epochs=4")}}}
stages:
  p: {{command: pretrain}}
  f: {{command: finetune, overrides: [init=@p, attack=none, data.limit=40, schedule.epochs=1, train.batch_size=16,
       validation.limit=20, validation.steps=1, device=cpu]}}
"""
    launched = launch(text, "cluster.pretrain.gpus_per_node=1", f"cluster.environment=[OMP_NUM_THREADS=1,PATH={path}]")
    assert launched.run() == 0
    end = time.monotonic() + PATIENCE
    while steps(launched, "p") < 3:
        assert time.monotonic() < end, launched.story()
        time.sleep(0.2)
    slurm_command("scancel", "--signal=USR2", launched.states()["p"].job or "")
    states = launched.wait()
    assert (states["p"].state, states["f"].state) == ("stopped", "skipped"), launched.story()
    assert "could not be requeued (scontrol: command not found" in (states["p"].error or "")
    assert launched.run() == 0
    states = launched.wait()
    assert (states["p"].state, states["f"].state) == ("finished", "finished"), launched.story()
    assert len(resumed_at(launched, "p")) == 1


def test_a_port_that_is_taken_costs_nothing(launch: Callable[..., Launch], closed: None) -> None:
    launched = launch(f"common: {{pretrain: {SMALL}}}\nstages: {{p: {{command: pretrain}}}}\n")
    assert launched.run() == 0
    job = launched.states()["p"].job or ""
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", first_port({"SLURM_JOB_ID": job})))
        busy.listen()
        slurm_command("scontrol", "update", "PartitionName=main", "State=UP")
        states = launched.wait()
    assert states["p"].state == "finished", launched.story()
    assert [past.restart for past in sessions(launched.directory, "p")] == [0]


def test_an_srun_that_starts_no_rank_is_given_up_soon_with_what_it_said(launch: Callable[..., Launch]) -> None:
    text = f"common: {{pretrain: {SMALL}}}\nstages: {{p: {{command: pretrain}}}}\n"
    refusing = "cluster.environment=[SLURM_MEM_PER_CPU=100]"  # srun does not take this beside --mem
    launched = launch(text, "cluster.mem_gb=0.5", refusing)
    assert launched.run() == 0
    states = launched.wait()
    assert states["p"].state == "failed", launched.story()
    error = states["p"].error or ""
    assert error.startswith("no rank started (srun exit code 1): srun: ") and "mutually exclusive" in error, error
    assert error.endswith("given up: 3 starts in a row ended before the run began")


@pytest.mark.parametrize("module", ["echo no module $2; return 1", "echo no module $2 >&2; LOADEDMODULES=gcc/9"])
def test_a_module_that_cannot_be_loaded_is_the_reason_at_once(
    module: str, launch: Callable[..., Launch], tmp_path: Path
) -> None:
    (tmp_path / "setup.sh").write_text(f"export LOADEDMODULES=gcc/9\nmodule() {{ {module}; }}\n")
    launched = launch(
        f"common: {{pretrain: {SMALL}}}\nstages: {{p: {{command: pretrain}}}}\n",
        "cluster.modules=[cuda/99]", f"cluster.source={tmp_path / 'setup.sh'}",
    )  # fmt: skip
    assert launched.run() == 0
    states = launched.wait()
    assert states["p"].state == "failed", launched.story()
    assert "`module load cuda/99` failed" in (states["p"].error or "")
    assert "no module cuda/99" in output_file(launched.directory, states["p"].job or "").read_text()

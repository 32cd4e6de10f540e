"""The keys of a profile for particular sites, on a real Slurm that binds tasks to cores: what the jobs and their ranks have."""

from __future__ import annotations

import re
import stat
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.devcluster.cluster import DevCluster
from tests.slurm.conftest import Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = (
    """[data.limit=96, schedule.epochs=1, train.batch_size=16, validation.limit=20, validation.steps=1, device=cpu]"""
)
STAGES = f"""
common: {{pretrain: {SMALL}, finetune: {SMALL}, evaluate: [attack=pgd5, attack.eps=0.1, data.limit=20, device=cpu]}}
stages:
  p: {{command: pretrain, overrides: [attack=none, model.width=8]}}
  f: {{command: finetune, overrides: [attack=none, init=@p]}}
  e: {{command: evaluate, overrides: [checkpoint=@f]}}
"""
# The wrapper of the ranks writes down what each one has.
PROBE = """#!/bin/bash
{ env; echo "CORES=$(taskset --cpu-list --pid $$ | sed 's/.*: //')"; echo "WORDS=$*"; } > "$(dirname "$0")/$1.$SLURM_JOB_ID.$SLURM_PROCID"
shift
exec "$@"
"""
GPU = """
name: slurm
partition: main
check_gpus: false
minutes: 20
gres: gpu:1
cpus_per_task: 2
sbatch: ["comment=two words", nice=7]
wrap: "'{probe}' gpu"
environment: [MARK=gpu]
pretrain: {{reservation: held, exclusive: true, mem_gb: 0}}
finetune: {{gres: "gpu:2", cpus_per_task: 1, srun: [cpu-bind=none], mem_gb: 1.5, fabric: socket}}
evaluate: {{profile: cpu.yaml, minutes: 9}}
"""
CPU = """
name: slurm
partition: urgent
minutes: 30
cpus_per_task: 2
wrap: "'{probe}' cpu"
environment: [MARK=cpu, OMP_NUM_THREADS=3]
"""
AFFINITY = "TaskPlugin=task/affinity\n"


@pytest.fixture
def binding(
    devcluster: DevCluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A Slurm that binds each task to its cores, with a reservation of node4."""
    cluster = DevCluster(tmp_path_factory.mktemp("slurm"), tied=True, more=AFFINITY)
    cluster.start()
    for variable, value in cluster.environment.items():
        monkeypatch.setenv(variable, value)
    slurm_command(
        "scontrol", "create", "reservation", "ReservationName=held", "Nodes=node4", "StartTime=now", "Duration=60", "Users=root"
    )  # fmt: skip
    try:  # without this package: does a Slurm that binds tasks start a job here at all?
        command = ["sbatch", "--wait", "--reservation=held", "--exclusive", "--output=/dev/null", "--wrap=srun true"]
        subprocess.run(command, check=True, capture_output=True, timeout=90)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        warnings.warn(f"NO TEST OF TASK/AFFINITY RAN: {error}", stacklevel=1)
        pytest.skip(f"Slurm with task/affinity starts no job here: {error}")
    yield
    cluster.stop()


def cores(listed: str) -> int:
    """The number of cores in a list such as 0-2,5."""
    ends = [part.split("-") for part in listed.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def test_each_key_takes_effect_and_each_command_runs_with_its_profile(
    launch: Callable[..., Launch], binding: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    folder = tmp_path / "a folder"
    folder.mkdir()
    probe = folder / "probe.sh"
    probe.write_text(PROBE)
    probe.chmod(probe.stat().st_mode | stat.S_IXUSR)
    (folder / "gpu.yaml").write_text(GPU.format(probe=probe))
    (folder / "cpu.yaml").write_text(CPU.format(probe=probe))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # of the login shell
    launched = launch(STAGES, f"cluster={folder}/gpu.yaml")
    assert launched.run() == 0
    assert ": f  [1 x 2 tasks]  afterok:" in capsys.readouterr().out
    states = launched.wait()
    assert {name: state.state for name, state in states.items()} == dict.fromkeys("pfe", "finished"), launched.story()

    # 1. what Slurm was asked for and gave
    def job(stage: str) -> dict[str, str]:
        text = slurm_command("scontrol", "--oneliner", "show", "job", states[stage].job or "")
        return dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|$)", text))

    p, f, e = job("p"), job("f"), job("e")
    assert (p["Partition"], p["Reservation"], p["NodeList"]) == ("main", "held", "node4")
    assert (f["Partition"], f.get("Reservation", "(null)"), e["Partition"]) == ("main", "(null)", "urgent")
    assert (p["TimeLimit"], f["TimeLimit"], e["TimeLimit"]) == ("00:20:00", "00:20:00", "00:09:00")
    assert (p["Comment"], "Nice" in p and p["Nice"], e.get("Comment", "")) == ("two words", "7", "")
    assert (p["NumCPUs"], p["OverSubscribe"], f["NumCPUs"]) == ("8", "NO", "2")  # a whole node of eight
    assert "mem=4000M" in p["TRES"] + p.get("AllocTRES", "") and "mem=1.50G" in f["TRES"] + f.get("AllocTRES", "")
    assert ("gpu:1" in p["TresPerNode"], "gpu:2" in f["TresPerNode"], "TresPerNode" in e) == (True, True, False)

    # 2. what each rank has
    def ranks(stage: str, mark: str) -> list[dict[str, str]]:
        files = sorted(folder.glob(f"{mark}.{states[stage].job}.*"))
        return [dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line) for file in files]

    (one,) = ranks("p", "gpu")
    assert (one["OMP_NUM_THREADS"], one["SLURM_CPUS_PER_TASK"]) == ("2", "2")
    assert (one["MARK"], len(one["CUDA_VISIBLE_DEVICES"].split(","))) == ("gpu", 1)
    two = ranks("f", "gpu")
    assert [rank["OMP_NUM_THREADS"] for rank in two] == ["1", "1"]
    assert [cores(rank["CORES"]) > 1 for rank in two] == [True, True]  # --cpu-bind=none
    assert {rank["NCCL_NET"] for rank in two} == {"Socket"} and "NCCL_NET" not in one
    assert len(two[0]["CUDA_VISIBLE_DEVICES"].split(",")) == 2
    (last,) = ranks("e", "cpu")
    assert (last["MARK"], last["OMP_NUM_THREADS"], cores(last["CORES"])) == (
        "cpu",
        "3",
        2,
    )
    assert "CUDA_VISIBLE_DEVICES" not in last and " rank " in last["WORDS"]
    assert "rank 1 of 2" in (launched.directory / "f" / "log.1.txt").read_text()
    assert "1 threads" in launched.log("f")

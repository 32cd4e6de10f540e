"""The devcluster itself: what it offers, what it leaves alone, what it leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm.devcluster import cluster as devcluster_module
from slurm.devcluster.cluster import CannotRun, DevCluster
from tests.slurm.conftest import slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_there_are_four_nodes_with_four_gpu_slots_each(devcluster: DevCluster) -> None:
    nodes = slurm_command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %G").split("\n")[:4]
    assert nodes == [f"node{n} gpu:4" for n in (1, 2, 3, 4)]
    seen = slurm_command(
        "srun", "--nodes=2", "--gpus-per-node=3", "--partition=urgent", "printenv", "CUDA_VISIBLE_DEVICES"
    )
    assert sorted(seen.split()) == ["0,1,2", "0,1,2"]


def test_there_is_accounting(devcluster: DevCluster) -> None:
    slurm_command("srun", "--job-name=counted", "--partition=urgent", "true")
    end = time.monotonic() + 30
    while "COMPLETED" not in slurm_command("sacct", "--name=counted", "--allocations", "--noheader", "--format=State"):
        assert time.monotonic() < end
        time.sleep(0.5)


def test_nothing_of_the_system_is_read_or_written(devcluster: DevCluster) -> None:
    configuration = "\n".join(file.read_text() for file in (devcluster.folder / "etc").iterdir())
    paths = [
        word for line in configuration.splitlines() for word in line.replace("=", " ").split() if word.startswith("/")
    ]
    assert paths
    assert all(path.startswith(str(devcluster.folder)) for path in paths)


def test_a_cluster_that_crashed_is_no_obstacle_and_stopping_leaves_no_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("slurm")
    program = f"import sys; sys.argv[1:] = ['up', {str(folder)!r}]; from slurm.devcluster.__main__ import main; main(sys.argv[1:])"
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    if "SLURM_CONF" not in started.stdout:
        pytest.skip(f"no Slurm can be started here: {started.stderr.strip()}")
    own = DevCluster(folder)
    for name in ("slurmctld", "mariadbd"):  # the two that keep state
        os.kill(int((folder / "run" / f"{name}.pid").read_text()), signal.SIGKILL)
    own.start()
    assert len(own.idle_nodes()) == 4
    own.stop()
    assert own._processes() == []
    own.stop()


def test_a_daemon_that_ends_at_its_start_is_started_once_more(
    devcluster: DevCluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`devcluster` is there to skip this where no Slurm can be started."""
    folder, programs = tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("programs")
    real = shutil.which("slurmctld")
    (programs / "slurmctld").write_text(
        f'#!/bin/sh\necho x >> {programs}/starts\n[ $(wc -l < {programs}/starts) -gt 1 ] || kill -TERM $$\nexec {real} "$@"\n'
    )
    (programs / "slurmctld").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    own = DevCluster(folder, tied=True)
    own.start()
    assert len(own.idle_nodes()) == 4
    assert (programs / "starts").read_text() == "x\nx\n"
    own.stop()
    (programs / "slurmctld").write_text("#!/bin/sh\necho broken\nexit 3\n")
    with pytest.raises(CannotRun, match="slurmctld has ended twice, exit code 3: broken"):
        own.start()
    assert own._processes() == []


def test_without_root_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devcluster_module.os, "geteuid", lambda: 1000)
    with pytest.raises(CannotRun, match="needs root"):
        DevCluster(tmp_path / "own").start()
    assert not (tmp_path / "own").exists()


def test_a_folder_in_which_no_job_could_start_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    with pytest.raises(CannotRun, match="too long a path"):
        DevCluster(long).start()
    assert not long.exists()

"""Several ranks in trouble, and jobs as a user meets them: plain scripts, a bad node, a shell in an allocation."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.cli import main
from launch import control
from slurm.devcluster.cluster import DevCluster
from tests.slurm.conftest import PATIENCE, Launch, slurm_command
from tests.slurm.test_faults import resumed_at, steps

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

TWO_NODES = """
common:
  pretrain: [attack=fgsm, data.limit=1600, schedule.epochs=2, model.width=8, train.batch_size=16, train.log_every=1,
             validation.limit=20, validation.steps=1, train.checkpoint_every=20, device=cpu]
stages:
  struck: {command: pretrain}
"""


def wait_for(there: Callable[[], bool], launched: Launch) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, launched.story()
        time.sleep(0.2)


def test_two_ranks_on_two_nodes_outlive_a_signal_to_one_and_the_death_of_the_other(
    launch: Callable[..., Launch], capfd: pytest.CaptureFixture[str]
) -> None:
    launched = launch(TWO_NODES, "cluster.pretrain.nodes=2", "cluster.pretrain.gpus_per_node=1")
    assert launched.run() == 0
    wait_for(lambda: steps(launched, "struck") > 20, launched)

    assert control.shell(launched.directory, "struck", ["printenv", "SLURM_JOB_NAME", "SLURMD_NODENAME"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "node1"
    os.kill(rank_process(launched, 1), signal.SIGUSR2)  # to one rank only: they agree
    wait_for(lambda: len(resumed_at(launched, "struck")) == 1, launched)
    assert "stopped by signal 12" in launched.log("struck")
    wait_for(lambda: steps(launched, "struck") > resumed_at(launched, "struck")[0] + 25, launched)
    os.kill(rank_process(launched, 1), signal.SIGKILL)
    states = launched.wait()
    assert states["struck"].state == "finished", launched.story()
    assert len(resumed_at(launched, "struck")) == 2
    assert main(["status", str(launched.directory)]) == 0
    assert "struck  finished" in capfd.readouterr().out


def rank_process(launched: Launch, rank: int) -> int:
    """The process of a rank, found by its environment."""
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        mine = {b"rank", str(launched.directory).encode()} <= set(words) and not words[0].endswith(b"srun")
        if mine and f"SLURM_PROCID={rank}".encode() in variables:
            return int(entry)
    raise AssertionError(f"no rank {rank}: {launched.story()}")


def test_the_plain_script_trains_on_two_nodes_and_queues_itself_again(
    devcluster: DevCluster, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    activate = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={repository}\n"
    (tmp_path / ".venv" / "bin" / "activate").write_text(activate)
    words = "data.limit=960 schedule.epochs=2 model.width=8 train.batch_size=16 attack=fgsm train.log_every=1"
    words += " validation.limit=20 validation.steps=1 device=cpu"
    job = slurm_command(
        "sbatch", "--parsable", f"--chdir={tmp_path}", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1",
        str(repository / "slurm" / "pretrain.sbatch"), str(tmp_path / "run"), *words.split(),
    ).strip()  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + PATIENCE
    while not (metrics.exists() and metrics.read_text().count('"train"') > 20):
        assert time.monotonic() < end, "\n".join(f.read_text() for f in tmp_path.glob("*.out"))
        time.sleep(0.2)
    slurm_command("scancel", "--signal=USR2", job)
    while not (tmp_path / "run" / "result.json").exists():
        assert time.monotonic() < end, "\n".join(f.read_text() for f in tmp_path.glob("*.out"))
        time.sleep(0.5)
    events = [json.loads(line).get("event") for line in metrics.read_text().splitlines()]
    assert "stop" in events and "resume" in events


def test_a_node_that_fails_the_preflight_is_named_and_left_out(launch: Callable[..., Launch], tmp_path: Path) -> None:
    """The data of a stage cannot be read on the node where it begins; it is there when the stage is requeued."""
    root = tmp_path / "images"
    text = f"""
stages:
  s: {{command: pretrain, overrides: [data=folder, data.root={root}, data.size=32, data.classes=2, attack=none, device=cpu]}}
"""
    launched = launch(text, "cluster.pretrain.nodes=1", "cluster.pretrain.gpus_per_node=1")
    assert launched.run() == 0
    states = launched.wait()
    assert states["s"].state == "failed", launched.story()
    sessions = [
        json.loads(line) for line in (launched.directory / "_slurm" / "sessions" / "s.jsonl").read_text().splitlines()
    ]
    assert len({session["nodes"] for session in sessions}) == 3
    assert "failed its preflight: data.root=" in (states["s"].error or "")
    assert "3 starts in a row ended before the run began" in (states["s"].error or "")

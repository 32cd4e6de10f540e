"""A job that somebody renames is still the launch's own, in the queue and after its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dist_advss.cli import main
from launch.queue.slurm import in_queue
from tests.slurm.conftest import PATIENCE, Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = """[attack=none, data.limit=48, schedule.epochs=1, model.width=8, train.batch_size=16, validation.limit=20,
       validation.steps=1, device=cpu]"""
TEXT = f"""
common: {{pretrain: {SMALL}, finetune: {SMALL.replace(" model.width=8,", "")}}}
stages:
  alone: {{command: finetune, overrides: [init=@p_0]}}
  "p_{{n}}": {{matrix: {{n: [0, 1]}}, command: pretrain, overrides: ["seed={{n}}"]}}
"""


def test_a_renamed_job_is_followed_cancelled_and_not_queued_twice(
    launch: Callable[..., Launch], closed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    launched = launch(TEXT, "cluster.pretrain.nodes=1", "cluster.pretrain.gpus_per_node=1")
    assert launched.run() == 0
    jobs = {stage: current.job or "" for stage, current in launched.states().items()}
    rename = {id: job for id, job in in_queue().items() if job.waits}
    assert rename.keys() == set(jobs.values())
    for id in {id.partition("_")[0] for id in rename}:
        slurm_command("scontrol", "update", f"JobId={id}", "JobName=urgent-for-the-deadline")
    assert {job.name for job in in_queue().values() if job.waits} == {"urgent-for-the-deadline"}
    assert launched.run() == 0  # queues nothing
    assert {id for id, job in in_queue().items() if job.waits} == set(rename)
    slurm_command("scontrol", "hold", jobs["p_1"])
    slurm_command("scontrol", "update", "PartitionName=main", "State=UP")

    end = time.monotonic() + PATIENCE
    while (states := launched.states())["alone"].state != "finished" or states["p_0"].state != "finished":
        assert time.monotonic() < end, launched.story()
        time.sleep(0.5)
    assert {stage: current.job for stage, current in states.items()} == jobs
    assert (states["p_1"].state, states["p_1"].error) == (
        "queued",
        f"held by an administrator; scontrol release {jobs['p_1']}",
    )
    capsys.readouterr()
    assert main(["cancel", str(launched.directory)]) == 0
    assert f"p_1: job {jobs['p_1']} cancelled\n" in capsys.readouterr().out
    assert launched.states()["p_1"].state == "stopped"

"""A job that a real Slurm could not start, and then holds: what the user reads, and what brings the job back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.queue import held
from launch.queue.slurm import in_queue
from slurm.devcluster.cluster import DevCluster
from tests.slurm.conftest import PATIENCE, Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

TEXT = """
stages:
  p: {command: pretrain, overrides: [attack=none, data.limit=48, schedule.epochs=1, model.width=8, train.batch_size=16,
       validation.limit=20, validation.steps=1, device=cpu]}
"""


def hold(launched: Launch) -> str:
    """Waits until Slurm holds the job of p. Returns its state as `status` shows it."""
    end = time.monotonic() + PATIENCE
    while not any(job.reason in held.NOT_STARTED for job in in_queue().values()):
        assert time.monotonic() < end, launched.story()
        time.sleep(0.3)
    current = launched.states()["p"]
    assert current.state == "queued"
    return current.error or ""


def test_launch_and_watch_release_a_job_that_slurm_could_not_start(
    launch: Callable[..., Launch],
    another: Callable[..., DevCluster],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The site's prolog fails on a node, which Slurm then drains; on the third node it works."""
    broken = tmp_path / "broken"
    broken.touch()
    prolog = tmp_path / "prolog.sh"
    prolog.write_text(f"#!/bin/sh\n[ ! -e {broken} ]\n")
    prolog.chmod(0o755)
    another(f"Prolog={prolog}\n")
    launched = launch(TEXT, "cluster.pretrain.nodes=1", "cluster.pretrain.gpus_per_node=1")
    assert launched.run() == 0
    said = hold(launched)
    assert said == (
        f"held, as Slurm could not start it; dist-advss watch {launched.directory} or the same launch releases it"
    )

    watching = subprocess.Popen(
        [sys.executable, "-m", "dist_advss", "watch", str(launched.directory)], stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + PATIENCE
    job = launched.states()["p"].job or ""
    while len(drained()) < 2:  # watch has released it
        assert time.monotonic() < end, launched.story()
        time.sleep(0.3)
    assert hold(launched) == said
    broken.unlink()
    capsys.readouterr()
    assert launched.run() == 0
    released = f"p: job {job}, which Slurm could not start, is released\np: queued already (job {job})\n"
    assert capsys.readouterr().out.startswith(released)
    shown, _ = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 0, shown + launched.story()
    assert "p: finished" in shown
    assert launched.states()["p"].job == job
    assert len(drained()) == 2


def drained() -> list[str]:
    return slurm_command("sinfo", "--noheader", "--Node", "--partition=main", "--states=drain", "--format=%N").split()

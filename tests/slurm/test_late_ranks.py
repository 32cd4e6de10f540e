"""A rank that srun starts late, time after time: the stage is given up at the third start, with what rank 0 said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.job.sessions import Session, record, sessions
from launch.queue.journal import Journal
from tests.slurm.conftest import Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

TEXT = """
stages:
  p: {command: pretrain, overrides: [attack=none, data.limit=48, schedule.epochs=1, model.width=8, train.batch_size=16,
       validation.limit=20, validation.steps=1, device=cpu]}
"""
LATE = """#!/bin/sh
# Rank 1 begins when rank 0 has given up, the first time; after that it never does.
if [ "$SLURM_PROCID" = 1 ]; then
  while [ ! -e "OUT/_slurm/ranks/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}/0.json" ]; do sleep 0.1; done
  [ -z "$SLURM_RESTART_COUNT" ] || exit 0
fi
exec "$@"
"""


def test_a_rank_that_is_late_is_given_up_at_the_third_start(
    launch: Callable[..., Launch], closed: None, tmp_path: Path
) -> None:
    """The first of the three is only recorded, to save time."""
    late = tmp_path / "late.sh"
    launched = launch(
        TEXT,
        "cluster.pretrain.nodes=2",
        "cluster.pretrain.gpus_per_node=1",
        "cluster.join_seconds=2",
        f"cluster.wrap={late}",
    )
    late.write_text(LATE.replace("OUT", str(launched.directory)))
    late.chmod(0o755)
    assert launched.run() == 0
    submission, _ = Journal(launched.directory).latest()["p"]
    record(
        launched.directory,
        "p",
        Session(submission.name, submission.job(-1), -1, "node4", time.time(), [], healthy=False),
    )
    slurm_command("scontrol", "update", "PartitionName=main", "State=UP")
    states = launched.wait()
    assert states["p"].state == "failed", launched.story()
    error = states["p"].error or ""
    assert "not all 2 ranks were there in 2 s (cluster.join_seconds): " in error, error
    assert error.endswith("given up: 3 starts in a row ended before the run began"), error
    assert [(past.restart, past.healthy) for past in sessions(launched.directory, "p")] == [
        (n, False) for n in (-1, 0, 1)
    ]
    assert "rank 1 of 2" in (launched.directory / "p" / "log.1.txt").read_text()  # late, not absent

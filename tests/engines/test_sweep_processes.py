"""A sweep's verdicts are the same, byte for byte, by one process, by two, and by one after a SIGKILL between two points."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import jobs

# fmt: off
# The batches are the same however the images are shared, so that rounding is too.
SWEPT = ["attack=pgd20", "attack.eps=0.03", "data.limit=24", "batch_size=6", "device=cpu", "threads=1"]
AXES = {
    "steps": ["attack.keep=any", "attack.steps=4", "attack.step_size=0.01", "sweep.steps=[1,2,8]"],
    "eps": ["attack.keep=any", "attack.steps=4", "sweep.eps=[0.003,0.01,0.1]"],
}
# fmt: on


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
def test_processes_and_a_kill_in_mid_sweep_do_not_change_a_byte(
    axis: str, start: Any, tuned: Path, tmp_path: Path
) -> None:
    words = [f"checkpoint={tuned}", *SWEPT, *AXES[axis]]
    for size in (1, 2):
        ranks = start(size, jobs.evaluate, *words, f"out={tmp_path / str(size)}")
        assert ranks.wait(jobs.LONG) == [0] * size, ranks.said()

    # One of two is killed after the first point of its second batch. One process ends the work.
    killed = tmp_path / "killed"
    ranks = start(2, jobs.sweep_and_die, 1, 2, *words, f"out={killed}")
    ranks.processes[-1].join(jobs.LONG)
    ranks.kill()
    assert ranks.processes[-1].exitcode == -signal.SIGKILL, ranks.said()
    assert np.load(killed / "verdicts.partial.1.npz")["index"].tolist() == [12, 13, 14, 15, 16, 17]
    again = start(1, jobs.evaluate, *words, f"out={killed}")
    assert again.wait(jobs.LONG) == [0], again.said()

    for name in ("verdicts.npz", "samples/samples.npz"):
        assert len({(tmp_path / run / name).read_bytes() for run in ("1", "2", "killed")}) == 1, name
    assert len(set(np.load(tmp_path / "1" / "verdicts.npz")["felled_at"].tolist())) > 2, "at several points"

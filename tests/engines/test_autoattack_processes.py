"""AutoAttack's verdicts are the same, byte for byte, for any number of processes and after a SIGKILL in mid-cascade."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import jobs

# fmt: off
SHORT = ["attack=autoattack", "attack.steps=2", "attack.targets=1", "attack.queries=3", "attack.eps=0.03", "data.limit=24",
         "device=cpu", "threads=1"]
# fmt: on


@pytest.mark.slow
def test_processes_batches_and_a_kill_in_mid_cascade_do_not_change_a_byte(
    start: Any, tuned: Path, tmp_path: Path
) -> None:
    judged = [f"checkpoint={tuned}", *SHORT]
    for size, batch in ((1, 24), (2, 7), (4, 6)):
        ranks = start(size, jobs.evaluate, *judged, f"batch_size={batch}", f"out={tmp_path / str(size)}")
        assert ranks.wait(jobs.LONG) == [0] * size, ranks.said()

    for size, batch in ((1, 24), (2, 7)):
        swept = f"out={tmp_path / f'swept{size}'}"
        ranks = start(size, jobs.evaluate, *judged, "sweep.eps=[0.01,0.1]", f"batch_size={batch}", swept)
        assert ranks.wait(jobs.LONG) == [0] * size, ranks.said()

    # One of two is killed in FAB-T of its second batch. One process ends the work, in batches of another size.
    killed = tmp_path / "killed"
    ranks = start(2, jobs.evaluate_and_die, "fab-t", 2, *judged, "batch_size=6", f"out={killed}")
    ranks.processes[-1].join(jobs.LONG)
    ranks.kill()
    assert ranks.processes[-1].exitcode == -signal.SIGKILL, ranks.said()
    assert np.load(killed / "verdicts.partial.1.npz")["index"].tolist() == [12, 13, 14, 15, 16, 17]
    assert np.load(killed / "samples.partial.1.npz")["index"].tolist() == [12, 13, 14, 15], "of the first 16"
    again = start(1, jobs.evaluate, *judged, "batch_size=5", f"out={killed}")
    assert again.wait(jobs.LONG) == [0], again.said()

    for name in ("verdicts.npz", "samples/samples.npz"):
        assert len({(tmp_path / run / name).read_bytes() for run in ("1", "2", "4", "killed")}) == 1, name
        assert len({(tmp_path / run / name).read_bytes() for run in ("swept1", "swept2")}) == 1, name
    assert len(set(np.load(tmp_path / "swept1" / "verdicts.npz")["felled_at"].tolist())) > 2, "at several radii"
    felled = np.load(tmp_path / "1" / "verdicts.npz")["felled_by"].tolist()
    assert {-1, 0, 1} <= set(felled), "some stand, some fall, or the comparison says little"

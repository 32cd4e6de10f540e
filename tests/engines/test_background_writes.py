"""A checkpoint that rank 0 cannot write in the background ends every process; only rank 0 copies the state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dist_advss.engines.copies import Copies
from dist_advss.errors import RunError
from dist_advss.training import checkpoint

from . import jobs

WORDS = ["objective=rotation", "engine=ddp", "attack.steps=1", "train.checkpoint_every=2"]


def run_on_a_full_disk(out: Path, failing: int) -> None:
    """Write number `failing` fails: 1 and 2 within the epoch of 4 steps, 3 at its end, 4 after the last validation."""
    save_last, writes = checkpoint.save_last, 0

    def fail(*arguments: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == failing:
            raise RunError("the disk is full")
        save_last(*arguments)

    checkpoint.save_last = fail  # type: ignore[assignment]
    jobs.train("pretrain", *WORDS, f"out={out}")


@pytest.mark.parametrize("failing", [1, 4])
def test_a_write_that_fails_in_the_background_ends_all_processes_together(
    start: Any, tmp_path: Path, failing: int
) -> None:
    ranks = start(2, run_on_a_full_disk, tmp_path / "run", failing)
    assert ranks.wait() == [1, 1], ranks.said()
    assert "the disk is full" in ranks.outputs[0].read_text()
    assert "ending the job" not in ranks.said()  # the watchdog would say so; here all processes raised the error
    assert not (tmp_path / "run" / "result.json").exists()


def run_that_counts_copies(out: Path) -> None:
    of, copied = Copies.of, [0]

    def counted(self: Copies, tensor: Any) -> Any:
        copied[0] += 1
        return of(self, tensor)

    Copies.of = counted  # type: ignore[method-assign]
    jobs.train("pretrain", *WORDS, f"out={out}")
    print(f"copied {'something' if copied[0] else 'nothing'}", flush=True)


def test_only_rank_0_copies_the_state(start: Any, tmp_path: Path) -> None:
    ranks = start(2, run_that_counts_copies, tmp_path / "run")
    assert ranks.wait() == [0, 0], ranks.said()
    assert "copied something" in ranks.outputs[0].read_text()
    assert "copied nothing" in ranks.outputs[1].read_text()

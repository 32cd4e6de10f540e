"""What a step and a save ask of other processes, in a pretended world of 8; the figures of docs/performance.md are of 1,024."""

from __future__ import annotations

import pytest

from benchmarks.fake_world import in_process


@pytest.mark.parametrize("rank", [0, 1])
def test_a_ddp_step_averages_gradients_and_signals_whatever_the_attack_and_rank_0_alone_writes_a_checkpoint(
    rank: int,
) -> None:
    counts = in_process("ddp", rank, 8)
    assert counts["step"] == {"allreduce": 2}
    assert counts["step with a line"] == {"allreduce": 3}
    save = counts["save"]
    # A rank that skipped one of these would leave the others waiting.
    assert (save["allreduce"], save["allgather"], save["gather"]) == (2, 1, 1)
    assert save["files written"] == (1 if rank == 0 else 0)
    assert save["store requests, all ranks"] == 0

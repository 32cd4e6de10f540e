"""One of four processes dies, fails or is frozen: the others end in time, the checkpoint is whole, a restart goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss import engines
from dist_advss.config.schema import Guard
from dist_advss.engines import EXIT_HANG, watchdog
from dist_advss.tracking import read
from dist_advss.training import checkpoint, loop

from . import jobs

WORDS = ["objective=rotation", "engine=ddp", "schedule.epochs=3", "train.checkpoint_every=2", "attack.steps=1"]


def until(condition: Callable[[], bool], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def crawl() -> None:
    """Steps that leave time to interfere."""
    advance = loop.Trainer._after_step

    def slowly(self: Any, *arguments: Any) -> None:
        time.sleep(0.3)
        advance(self, *arguments)

    loop.Trainer._after_step = slowly  # type: ignore[assignment, method-assign]


def slow_run(*words: str) -> None:
    crawl()
    jobs.train("pretrain", *WORDS, *words)


def failing_run(*words: str) -> None:
    """Rank 2 has a fault of its own after three steps."""
    if os.environ["RANK"] == "2":
        step, taken = loop.Trainer._after_step, 0

        def broken(self: Any, *arguments: Any) -> None:
            nonlocal taken
            taken += 1
            if taken == 3:
                raise ZeroDivisionError("a fault of rank 2")
            step(self, *arguments)

        loop.Trainer._after_step = broken  # type: ignore[assignment, method-assign]
    jobs.train("pretrain", *WORDS, *words)


def hanging_run(*words: str) -> None:
    """Rank 1 never comes back from its third step."""
    if os.environ["RANK"] == "1":
        step, taken = loop.Trainer._after_step, 0

        def stuck(self: Any, *arguments: Any) -> None:
            nonlocal taken
            taken += 1
            while taken == 3:
                time.sleep(0.1)
            step(self, *arguments)

        loop.Trainer._after_step = stuck  # type: ignore[assignment, method-assign]
    jobs.train("pretrain", *WORDS, "guard.hang_s=4", *words)


def restart_goes_on(start: Any, out: Path) -> None:
    state = checkpoint.load(out / "checkpoints" / "last.pt")
    assert state["progress"]["step"] or state["progress"]["done"]
    again = start(4, jobs.train, "pretrain", *WORDS, f"out={out}")
    assert again.wait() == [0] * 4, again.said()
    lines = read(out / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 16))
    assert any(line.get("event") == "resume" for line in lines)


@pytest.mark.slow
def test_when_one_is_killed_the_others_end(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(4, slow_run, f"out={out}")
    until((out / "checkpoints" / "last.pt").exists, 200)
    ranks.signal(3, signal.SIGKILL)
    begun = time.monotonic()
    codes = ranks.wait(watchdog.DEAD_AFTER_S + 15)
    assert codes[3] == -signal.SIGKILL
    assert all(code not in (0, None) for code in codes), codes
    assert time.monotonic() - begun < watchdog.DEAD_AFTER_S + 15
    restart_goes_on(start, out)


@pytest.mark.slow
def test_when_one_fails_all_end_within_thirty_seconds_with_its_traceback(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(4, failing_run, f"out={out}")
    until(lambda: "a fault of rank 2" in ranks.said(), 200)
    begun = time.monotonic()
    assert ranks.wait(30) == [1] * 4
    assert time.monotonic() - begun < 30
    first = ranks.outputs[0].read_text()  # what a user looks at
    assert "reported by rank 2" in first
    assert "ZeroDivisionError: a fault of rank 2" in first and "in broken" in first


@pytest.mark.slow
def test_a_job_that_hangs_writes_every_stack_and_ends_with_its_own_code(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(4, hanging_run, f"out={out}")
    assert ranks.wait() == [EXIT_HANG] * 4, ranks.said()
    stacks = {path.name: path.read_text() for path in (out / "stacks").glob("*.txt")}
    assert stacks.keys() == {f"rank{rank}.txt" for rank in range(4)}
    assert "in stuck" in stacks["rank1.txt"]
    assert all("in stuck" not in stacks[f"rank{rank}.txt"] for rank in (0, 2, 3))
    assert "no step for 4 s" in ranks.said()
    restart_goes_on(start, out)


@pytest.mark.slow
def test_when_one_is_frozen_the_others_end_as_in_a_hang(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(4, slow_run, "guard.hang_s=4", f"out={out}")
    until((out / "checkpoints" / "last.pt").exists, 200)
    ranks.signal(2, signal.SIGSTOP)
    try:
        until(lambda: sum(p.exitcode is not None for p in ranks.processes) == 3, 4 + 60)
        assert [p.exitcode for p in ranks.processes] == [EXIT_HANG, EXIT_HANG, None, EXIT_HANG]
    finally:
        ranks.kill()  # as srun and torchrun do
    assert {path.name for path in (out / "stacks").iterdir()} >= {"rank0.txt", "rank1.txt", "rank3.txt"}
    restart_goes_on(start, out)


def test_a_process_alone_that_hangs_ends_as_well(start: Any, tmp_path: Path) -> None:
    ranks = start(1, alone_and_stuck, tmp_path)
    assert ranks.wait() == [EXIT_HANG]
    assert "time.sleep" in ranks.said() or "alone_and_stuck" in (tmp_path / "rank0.txt").read_text()


def a_failure_while_a_collective_waits() -> None:
    """Rank 1 is frozen. A thread of rank 0's process group waits for it when rank 0 fails."""
    place = engines.find_place()
    with engines.init("cpu", 1, Guard(), place):
        if place.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        torch.distributed.all_reduce(torch.ones(1), async_op=True)
        raise ZeroDivisionError("a fault of rank 0")


def test_a_failed_process_ends_though_a_collective_waits_for_a_process_that_never_answers(start: Any) -> None:
    ranks = start(2, a_failure_while_a_collective_waits)
    ranks.processes[0].join(200)
    assert ranks.processes[0].exitcode == 1, ranks.said()
    assert "a fault of rank 0" in ranks.said()


def alone_and_stuck(folder: Path) -> None:
    with watchdog.Watchdog(0, 1, None, start_s=30, hang_s=1, folder=folder) as guard:
        guard.heartbeat()
        time.sleep(60)


def a_refusal_of_rank_0(out: Path) -> None:
    """The folder cannot be written: only rank 0 finds out."""
    jobs.train("pretrain", *WORDS, f"out={out}")


def test_what_rank_0_refuses_is_refused_by_all_and_said_once(start: Any, tmp_path: Path) -> None:
    """A file stands where the run's folder should be."""
    (tmp_path / "taken").write_text("")
    ranks = start(2, a_refusal_of_rank_0, tmp_path / "taken" / "run")
    codes = ranks.wait()
    assert None not in codes and 0 not in codes
    assert sum("cannot be written" in output.read_text() for output in ranks.outputs) == 1

"""Real processes: killed with no chance to save, asked to stop by a signal, and two in one folder."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dist_advss.cli import main
from dist_advss.errors import UserError
from dist_advss.training.run import train

if TYPE_CHECKING:
    from tests.training.conftest import Runs

KILLS = 20
STEPS = 48
LONG = ["schedule.epochs=12", "train.checkpoint_every=2", "validation.limit=4"]


def steps_on_file(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b'{"kind": "train"') if file.exists() else 0


def wait(reached: Callable[[], bool], running: Callable[[], bool], seconds: float = 60) -> None:
    """Until `reached`, or what is waited for is no longer running."""
    end = time.monotonic() + seconds
    while running() and not reached():
        assert time.monotonic() < end, "nothing happened for too long"
        time.sleep(0.001)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_a_run_ends_with_the_weights_of_an_undisturbed_one(
    runs: Runs, processes: ForkServerContext
) -> None:
    runs.train(*LONG, name="whole")
    config, folder = runs.config(*LONG, name="killed"), runs.folder("killed")
    draw = random.Random(0)
    moments = sorted([0, 0, 1, *draw.sample(range(2, STEPS - 2), KILLS - 3)])
    hit, saved = 0, []
    for moment in moments:
        process = processes.Process(target=train, args=(config, "pretrain"))
        process.start()
        wait(lambda moment=moment: steps_on_file(folder) >= moment, process.is_alive)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.03))  # about as long as a step with its checkpoint takes
        process.kill()
        process.join()
        hit += process.exitcode == -signal.SIGKILL
        last = folder / "checkpoints" / "last.pt"
        saved.append(runs.load("killed")["progress"]["done"] if last.exists() else None)
    assert hit >= KILLS - 2
    assert saved[0] is None
    assert saved[-1] is not None
    assert saved[-1] >= 10
    train(config, "pretrain")
    assert runs.outcome("killed") == runs.outcome("whole")
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_command_and_the_same_command_goes_on(
    runs: Runs, processes: ForkServerContext, number: signal.Signals
) -> None:
    folder = runs.folder("stopped")
    command = ["pretrain", *runs.words, "schedule.epochs=8", f"out={folder}"]
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        process = pool.submit(os.getpid).result()
        exit_code = pool.submit(main, command)
        wait(lambda: steps_on_file(folder) >= 3, lambda: not exit_code.done())
        os.kill(process, number)
        assert exit_code.result(60) == 128 + number
    assert not (folder / "result.json").exists()
    assert [line["event"] for line in runs.metrics("stopped", "event")] == ["start", "stop"]
    runs.train("schedule.epochs=8", name="stopped")
    runs.train("schedule.epochs=8", name="whole")
    assert runs.outcome("stopped") == runs.outcome("whole")


def test_a_second_process_in_the_folder_is_refused_while_the_first_one_runs(
    runs: Runs, processes: ForkServerContext
) -> None:
    config, folder = runs.config("schedule.epochs=1000", name="shared"), runs.folder("shared")
    process = processes.Process(target=train, args=(config, "pretrain"))
    process.start()
    try:
        wait(lambda: steps_on_file(folder) >= 3, process.is_alive)
        with pytest.raises(UserError, match=f"out={folder}: another process is running in this folder"):
            train(config, "pretrain")
        assert process.is_alive()
    finally:
        process.kill()
        process.join()

"""Checkpoints are written in the background: steps go on, the order stays, no error is lost, and a kill damages nothing."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dist_advss.engines import Engine
from dist_advss.engines.copies import Copies
from dist_advss.errors import RunError
from dist_advss.training import checkpoint
from dist_advss.training.run import train
from dist_advss.training.writer import Writer

if TYPE_CHECKING:
    from tests.training.conftest import Runs


def test_steps_are_taken_while_a_write_is_held_up(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of step 2 is not written before step 4 was taken, and holds the weights of step 2 all the same."""
    fourth, step, save_last = threading.Event(), Engine.step, checkpoint.save_last
    weights: list[dict[str, torch.Tensor]] = []
    held = []

    def counted(self: Engine, loss: torch.Tensor) -> None:
        step(self, loss)
        weights.append({name: t.clone() for name, t in self.module.state_dict().items()})
        if len(weights) == 4:
            fourth.set()

    def hold_up(folder: Path, content: Any, keep: int) -> None:
        if content["progress"]["step"] == 2:
            held.append(fourth.wait(60))
        save_last(folder, content, keep)

    monkeypatch.setattr(Engine, "step", counted)
    monkeypatch.setattr(checkpoint, "save_last", hold_up)
    kept = runs.folder("run") / "checkpoints" / "step_2.pt"
    replace = os.replace

    def keep_step_2(source: Any, target: Any) -> None:
        replace(source, target)
        if len(held) == 1 and Path(target).name == "last.pt" and not kept.exists():
            shutil.copy(target, kept)

    monkeypatch.setattr(os, "replace", keep_step_2)
    runs.train("schedule.epochs=1", "train.checkpoint_every=2")
    assert held == [True]
    saved = checkpoint.load(kept)
    assert saved["progress"]["step"] == 2
    assert all(torch.equal(saved["model"][name], t) for name, t in weights[1].items())


def train_and_die_in_a_write(config: Any) -> None:
    """Kills this process in the background, when half of the third checkpoint is written and another step was taken."""
    step, save, steps, writes = Engine.step, torch.save, 0, 0
    another = threading.Event()

    def counted(self: Engine, loss: torch.Tensor) -> None:
        nonlocal steps
        step(self, loss)
        steps += 1
        if steps == 4:
            another.set()

    def half(content: Any, file: Any) -> None:
        nonlocal writes
        writes += 1
        save(content, file)
        if writes == 3:
            file.truncate(file.tell() // 2)
            another.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)

    Engine.step = counted  # type: ignore[method-assign]
    torch.save = half  # type: ignore[assignment]
    train(config, "pretrain")


def test_killed_in_a_background_write_the_checkpoint_before_is_whole_and_the_run_resumes(
    runs: Runs, processes: ForkServerContext
) -> None:
    config = runs.config("train.checkpoint_every=1", name="killed")
    process = processes.Process(target=train_and_die_in_a_write, args=(config,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [runs.load("killed", file)["progress"]["step"] for file in ("last", "previous")] == [2, 1]
    train(config, "pretrain")
    runs.train("train.checkpoint_every=1", name="whole")
    assert runs.outcome("killed") == runs.outcome("whole")
    assert not list(runs.folder("killed").rglob("*.tmp"))


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failed_write_stops_the_run_at_the_next_save_or_at_its_end(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Writes of an epoch of four steps: after step 2, after step 4, after the validation. The last has no next one."""
    save_last, writes = checkpoint.save_last, 0

    def fail(*arguments: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == failing:
            raise RunError("disk full")
        save_last(*arguments)

    monkeypatch.setattr(checkpoint, "save_last", fail)
    with pytest.raises(RunError, match=r"^disk full$"):
        runs.train("schedule.epochs=1", "train.checkpoint_every=2")
    assert writes == failing
    assert not (runs.folder("run") / "result.json").exists()


def test_the_writer_keeps_the_order_and_starts_nothing_after_a_failure() -> None:
    done: list[int] = []

    def fail() -> None:
        raise RunError("first")

    with pytest.raises(RunError, match="first"), Writer() as writer:
        for number in range(20):
            writer.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        writer.wait()
        writer.submit(fail)
        writer.submit(lambda: done.append(99))
    assert done == list(range(20))


def test_a_failure_beside_another_error_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RunError("disk full")

    with pytest.raises(ZeroDivisionError), Writer() as writer:
        writer.submit(fail)
        raise ZeroDivisionError
    assert capsys.readouterr().err == "dist-advss: disk full\n"


def test_copies_use_the_memory_of_the_state_before() -> None:
    live = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    copies = Copies(torch.device("cpu"))
    copies.start()
    first, twin = copies.of(live), copies.of(live)
    assert first.is_contiguous() and torch.equal(first, live)
    assert len({first.data_ptr(), twin.data_ptr(), live.data_ptr()}) == 3
    copies.start()
    assert {copies.of(live + 1).data_ptr(), copies.of(live).data_ptr()} == {first.data_ptr(), twin.data_ptr()}


def epochs(runs: Runs, name: str) -> dict[int, int]:
    """The epoch in each epoch_N.pt, by N."""
    files = (runs.folder(name) / "checkpoints").glob("epoch_*.pt")
    return {int(f.stem[6:]): checkpoint.load(f)["progress"]["done"] for f in files}


def test_the_last_epochs_are_kept_and_a_file_is_as_last_was_at_the_end_of_its_epoch(runs: Runs) -> None:
    words = ["schedule.epochs=4", "train.checkpoint_every=2", "validation.every=2"]
    runs.train(*words, "train.keep_last_epochs=3")
    assert epochs(runs, "run") == {2: 2, 3: 3, 4: 4}
    assert [runs.load(file=f"epoch_{n}")["progress"]["unvalidated"] for n in (2, 3, 4)] == [False] * 3
    runs.train(*words, name="whole")
    assert epochs(runs, "whole") == {}
    assert runs.outcome("run")["result"] == runs.outcome("whole")["result"]
    last, fourth = ((runs.folder("run") / "checkpoints" / f"{n}.pt").read_bytes() for n in ("last", "epoch_4"))
    assert last == fourth


def test_a_disk_without_links_gets_copies(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    runs.train("train.keep_last_epochs=1")
    assert epochs(runs, "run") == {2: 2}


def test_an_epoch_is_accepted_where_a_checkpoint_is(runs: Runs) -> None:
    runs.train("train.keep_last_epochs=2")
    first = runs.folder("run") / "checkpoints" / "epoch_1.pt"
    runs.train(f"init={first}", "schedule.epochs=1", name="tuned", command="finetune")
    assert list(runs.result("tuned")["made_from"]["weights"]) == [str(first)]

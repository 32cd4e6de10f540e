"""Signals and kills lose nothing: not in a validation, not under nohup, whatever signal it is."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dist_advss.cli import main
from dist_advss.engines import Engine
from dist_advss.errors import STOP_SIGNALS
from dist_advss.training import checkpoint, validation

if TYPE_CHECKING:
    from tests.training.conftest import Runs


pytestmark = pytest.mark.usefixtures("hang_up_as_in_a_terminal")


@pytest.fixture
def at_call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """`at_call(Class, "method", 3, act)` calls `act` just before the third call of a method. Returns the number of calls."""

    def arrange(owner: Any, name: str, number: int, act: Callable[[], Any]) -> list[int]:
        original, calls = getattr(owner, name), [0]

        def counted(self: Any, *arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                act()
            return original(self, *arguments, **named)

        monkeypatch.setattr(owner, name, counted)
        return calls

    return arrange


def pretrain(runs: Runs, name: str, *words: str) -> int:
    return main(["pretrain", *runs.words, *words, f"out={runs.folder(name)}"])


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_stop_signal_saves_after_the_step_and_gives_its_exit_code(
    runs: Runs, at_call: Callable[..., list[int]], number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = at_call(Engine, "step", 3, lambda: signal.raise_signal(number))
    assert pretrain(runs, "run") == 128 + number
    assert steps == [3]
    assert runs.load()["progress"]["step"] == 3
    assert capsys.readouterr().err.endswith("dist-advss: stopped at step 3, saved; rerun the command to resume\n")


def test_under_nohup_a_closed_terminal_does_not_stop_a_run(runs: Runs, at_call: Callable[..., list[int]]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    at_call(Engine, "step", 3, lambda: signal.raise_signal(signal.SIGHUP))
    assert pretrain(runs, "run") == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_signal_in_a_validation_stops_within_a_batch_and_the_rerun_ends_as_if_never_stopped(
    runs: Runs, at_call: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """20 held-out images are two batches of a validation. The signal comes in the first one."""
    runs.train(name="whole")
    in_validation = count_of(monkeypatch, epoch, lambda: signal.raise_signal(signal.SIGTERM))
    assert pretrain(runs, "run") == 128 + signal.SIGTERM
    assert in_validation == [2 * epoch - 1]  # one batch of this validation, both of an earlier one
    progress = runs.load()["progress"]
    assert (progress["done"], progress["step"], progress["unvalidated"]) == (epoch, 0, True)
    steps = at_call(Engine, "step", 10**9, lambda: None)
    assert pretrain(runs, "run") == 0
    assert steps == [8 - 4 * epoch]  # the epoch itself is not trained again
    assert runs.outcome("run") == runs.outcome("whole")


def count_of(monkeypatch: pytest.MonkeyPatch, epoch: int, act: Callable[[], Any]) -> list[int]:
    """Counts the batches of all validations, and calls `act` in the first batch of validation number `epoch`."""
    seen = [0]

    class Watched(validation.PGD):
        def __call__(self, *arguments: Any) -> Any:
            seen[0] += 1
            if seen[0] == 2 * epoch - 1:
                act()
            return super().__call__(*arguments)

    monkeypatch.setattr(validation, "PGD", Watched)
    return seen


@pytest.mark.parametrize("file", ["best_ra.pt", "best_ta.pt", "last.pt"])
def test_killed_while_it_validates_or_saves_what_follows_a_run_repeats_the_validation_only(
    runs: Runs, at_call: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    runs.train("schedule.epochs=1", name="whole")
    save, last = checkpoint.save, 0

    def cut(path: Path, content: Any) -> None:
        nonlocal last
        last += path.name == "next.pt"
        if path.name == file or (file == "last.pt" and last == 2):
            raise SystemExit("power cut")
        save(path, content)

    monkeypatch.setattr(checkpoint, "save", cut)
    with pytest.raises(SystemExit):
        runs.train("schedule.epochs=1")
    monkeypatch.setattr(checkpoint, "save", save)
    steps = at_call(Engine, "step", 10**9, lambda: None)
    runs.train("schedule.epochs=1")
    assert steps == [0]
    assert runs.outcome("run") == runs.outcome("whole")


def test_an_epoch_without_a_validation_is_not_validated_after_a_stop(
    runs: Runs, train_in_pieces: Callable[..., int]
) -> None:
    words = ["schedule.epochs=3", "validation.every=2"]
    runs.train(*words, name="whole")
    train_in_pieces(*words, steps=1, name="pieces")
    assert [line["epoch"] for line in runs.metrics("pieces", "validation")] == [2, 3]
    assert runs.outcome("pieces") == runs.outcome("whole")


def test_a_checkpoint_of_an_older_version_resumes_without_a_second_validation(
    runs: Runs,
) -> None:
    runs.train("schedule.epochs=1")
    (runs.folder("run") / "result.json").unlink()
    state = runs.load()
    del state["progress"]["unvalidated"], state["format"]
    checkpoint.save(runs.folder("run") / "checkpoints" / "last.pt", state)
    lines = (runs.folder("run") / "metrics.jsonl").read_bytes()
    runs.train("schedule.epochs=1")
    assert json.loads((runs.folder("run") / "result.json").read_text())["epochs"] == 1
    added = (runs.folder("run") / "metrics.jsonl").read_bytes()[len(lines) :]
    assert b'"validation"' not in added

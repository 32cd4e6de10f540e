"""A run that was stopped and taken up again ends as if it had never been stopped, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dist_advss.errors import RunError, Stopped

if TYPE_CHECKING:
    from tests.training.conftest import Runs

SMALL_SELFIE = [
    "objective=selfie",
    "objective.layers=2",
    "objective.heads=2",
    "objective.ffn=16",
    "objective.dropout=0.5",
]
METHODS = {
    "rotation": ("pretrain", ["objective=rotation"]),
    "jigsaw": ("pretrain", ["objective=jigsaw"]),
    "selfie with dropout": ("pretrain", SMALL_SELFIE),
    "classify with AdamW": ("finetune", ["objective=classify", "schedule.optimizer=adamw", "schedule.lr=0.01"]),
    "mart with label smoothing": ("finetune", ["objective=mart", "objective.label_smoothing=0.1"]),
    "classify with averaged and perturbed weights": (
        "finetune",
        ["objective=classify", "train.ema=0.9", "train.awp=0.01", "train.awp_after=1"],
    ),
    "growing images": ("finetune", ["train.first_size=20", "train.size_ramp=1"]),
    "three updates a batch": ("finetune", ["attack=free", "attack.steps=3", "train.ema=0.9"]),
    "trades with LARS": ("finetune", ["objective=trades", "schedule=lars", "schedule.epochs=2", "schedule.warmup=1"]),
}


@pytest.mark.parametrize(("method", "steps"), [*((method, 1) for method in METHODS), ("rotation", 3)])
def test_stopped_after_every_few_steps_a_run_ends_as_if_never_stopped(
    runs: Runs, train_in_pieces: Callable[..., int], method: str, steps: int
) -> None:
    command, words = METHODS[method]
    runs.train(*words, name="whole", command=command)
    stops = train_in_pieces(*words, steps=steps, name="pieces", command=command)
    assert stops == 8 // steps  # eight steps in all: also in mid-epoch, at its end and after the very last one
    assert runs.outcome("pieces") == runs.outcome("whole")


def test_a_stop_between_two_lines_of_metrics_leaves_the_means_as_they_are(
    runs: Runs, train_in_pieces: Callable[..., int]
) -> None:
    runs.train("train.log_every=3", name="whole")
    train_in_pieces("train.log_every=3", steps=2, name="pieces")
    assert [line["step"] for line in runs.metrics("whole")] == [3, 4, 6, 8]
    assert runs.outcome("pieces") == runs.outcome("whole")


def test_how_often_a_run_saves_and_where_it_computes_does_not_change_it(runs: Runs) -> None:
    runs.train(name="whole")
    runs.train("train.checkpoint_every=1", name="often")
    whole, often = runs.outcome("whole"), runs.outcome("often")
    for state in [*whole["states"].values(), *often["states"].values()]:
        del state["config"]["train"]
    assert often == whole


def test_a_resumed_run_says_where_it_went_on(runs: Runs, stop_after: Callable[[int], None]) -> None:
    stop_after(3)
    with pytest.raises(Stopped, match="stopped at step 3, saved"):
        runs.train()
    assert not (runs.folder("run") / "result.json").exists()
    assert runs.load()["progress"]["step"] == 3
    stop_after(100)
    runs.train()
    events = [(line["event"], line["step"]) for line in runs.metrics(kind="event")]
    assert events == [("start", 0), ("stop", 3), ("resume", 3), ("goodput", 8)]


def test_a_run_may_go_on_with_other_threads_lines_and_saves(runs: Runs, stop_after: Callable[[int], None]) -> None:
    stop_after(3)
    with pytest.raises(Stopped):
        runs.train()
    stop_after(100)
    runs.train("train.log_every=2", "train.checkpoint_every=1", "tracking.project=other")
    assert runs.result()["steps"] == 8


def test_the_same_command_in_a_finished_folder_does_nothing(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    out = runs.train()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert runs.train() == out
    assert capsys.readouterr().out == f"{out}: finished already, nothing to do\n"
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_ended_before_its_result_was_written_writes_it_without_training_again(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.train()
    whole = runs.outcome("run")
    (runs.folder("run") / "result.json").unlink()

    def no_step(*arguments: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("dist_advss.engines.Engine.step", no_step)
    runs.train()
    assert runs.outcome("run") == whole


def stop_with_two_checkpoints(runs: Runs, stop_after: Callable[[int], None]) -> Path:
    """A run that stopped at step 3, its checkpoints of the steps 2 and 3."""
    stop_after(3)
    with pytest.raises(Stopped):
        runs.train("train.checkpoint_every=2")
    stop_after(100)
    return runs.folder("run") / "checkpoints"


def test_a_damaged_last_checkpoint_is_told_and_the_run_goes_on_from_the_one_before(
    runs: Runs, stop_after: Callable[[int], None]
) -> None:
    last = stop_with_two_checkpoints(runs, stop_after) / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    runs.train("train.checkpoint_every=2")
    told = {line["event"]: line for line in runs.metrics(kind="event")}
    assert f"{last}: damaged checkpoint" in told["damaged"]["text"]
    assert told["resume"]["text"] == "resumed from previous.pt at step 2"
    runs.train("train.checkpoint_every=2", name="whole")
    assert runs.outcome("run") == runs.outcome("whole")


def test_with_every_checkpoint_damaged_a_run_says_so_and_touches_nothing(
    runs: Runs, stop_after: Callable[[int], None]
) -> None:
    checkpoints = stop_with_two_checkpoints(runs, stop_after)
    for path in checkpoints.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    before = (runs.folder("run") / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="no undamaged checkpoint to resume from"):
        runs.train("train.checkpoint_every=2")
    assert (runs.folder("run") / "metrics.jsonl").read_bytes() == before
    assert all(path.stat().st_size == 100 for path in checkpoints.iterdir())

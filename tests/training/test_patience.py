"""A run ends early when RA has stopped rising, and keeps the weights of its best validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dist_advss.training import loop

if TYPE_CHECKING:
    from .conftest import Runs

RATES = {1: 20.0, 2: 30.0, 3: 30.0, 4: 25.0, 5: 40.0}  # RA after each epoch


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = [0]
    validate, end = loop.validate, loop.Trainer._end_epoch

    def ended(self: Any, *arguments: Any) -> None:
        epochs[0] = self.done + 1
        end(self, *arguments)

    def told(*arguments: Any) -> Any:
        return replace(validate(*arguments), ra=RATES[epochs[0]])

    monkeypatch.setattr(loop.Trainer, "_end_epoch", ended)
    monkeypatch.setattr(loop, "validate", told)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("patience", "ends"), [(0, 5), (1, 3), (2, 4), (3, 5)])
def test_a_run_ends_after_that_many_validations_without_a_higher_ra(runs: Runs, patience: int, ends: int) -> None:
    runs.train("schedule.epochs=5", f"validation.patience={patience}", "schedule.decay=constant")
    assert runs.result()["epochs"] == ends
    assert runs.result()["best_ra"]["epoch"] == (5 if ends == 5 else 2)
    assert runs.load(file="best_ra")["progress"]["done"] == runs.result()["best_ra"]["epoch"]
    texts = [line["text"] for line in runs.metrics(kind="event") if line["event"] == "early"]
    counted = {3: "1 validation", 4: "2 validations"}
    told = f"ends after epoch {ends}: {counted.get(ends)} without a higher RA than 30.0 of epoch 2"
    assert texts == ([told] if ends < 5 else [])


@pytest.mark.usefixtures("planted")
def test_stopped_after_every_step_it_ends_at_the_same_epoch(runs: Runs, train_in_pieces: Callable[..., int]) -> None:
    words = ["schedule.epochs=5", "validation.patience=1"]
    runs.train(*words, name="whole")
    train_in_pieces(*words, steps=3, name="pieces")
    assert runs.result("pieces")["epochs"] == 3
    assert runs.outcome("pieces") == runs.outcome("whole")

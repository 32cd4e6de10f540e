"""A run whose numbers are lost stops, says where, and leaves no checkpoint with a NaN or an infinity in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dist_advss.engines import Engine
from dist_advss.engines.base import LossScale
from dist_advss.errors import RunError
from dist_advss.objectives.rotation import Rotation

if TYPE_CHECKING:
    from tests.training.conftest import Runs

ForwardAt = Callable[[int], list[int]]


@pytest.fixture
def lose_the_loss_at(monkeypatch: pytest.MonkeyPatch) -> ForwardAt:
    """`lose_the_loss_at(k)`: the loss of update number k (counted from 0 in this process) is NaN."""
    forward = Rotation.forward

    def arrange(step: int) -> list[int]:
        calls = [0]

        def broken(self: Rotation, *arguments: Any) -> Any:
            found = forward(self, *arguments)
            if calls[0] == step:
                found.loss = found.loss * math.nan
            calls[0] += 1
            return found

        monkeypatch.setattr(Rotation, "forward", broken)
        return calls

    return arrange


def stop(runs: Runs, *words: str) -> str:
    with pytest.raises(RunError) as caught:
        runs.train(*words)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert not (runs.folder("run") / "result.json").exists()
    assert runs.metrics(kind="event")[-1]["event"] == "nan"
    return text


@pytest.mark.parametrize(("step", "every", "good"), [(3, 1, 3), (3, 2, 2), (6, 0, 4), (5, 3, 4)])
def test_a_lost_loss_stops_the_run_with_step_term_and_last_good_checkpoint(
    runs: Runs, lose_the_loss_at: ForwardAt, step: int, every: int, good: int
) -> None:
    lose_the_loss_at(step)
    text = stop(runs, f"train.checkpoint_every={every}", "train.log_every=100")
    assert text.startswith(f"step {step}: loss is nan, ")
    assert f"the last good checkpoint is {runs.folder('run') / 'checkpoints' / 'last.pt'}" in text
    assert "schedule.lr" in text
    progress = runs.load()["progress"]
    assert 4 * progress["done"] + progress["step"] == good
    assert runs.finite()


def test_without_a_checkpoint_it_says_so(runs: Runs, lose_the_loss_at: ForwardAt) -> None:
    lose_the_loss_at(0)
    assert stop(runs).startswith("step 0: loss is nan, there was no checkpoint yet")
    assert not (runs.folder("run") / "checkpoints").exists()


def test_with_the_cause_gone_the_same_command_goes_on_from_the_last_good_checkpoint(
    runs: Runs, lose_the_loss_at: ForwardAt
) -> None:
    runs.train("train.checkpoint_every=1", name="whole")
    lose_the_loss_at(6)
    stop(runs, "train.checkpoint_every=1")
    lose_the_loss_at(-1)
    runs.train("train.checkpoint_every=1")
    assert runs.outcome("run") == runs.outcome("whole")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("step", "every"), [(2, 1), (4, 0)])
def test_an_update_that_breaks_the_weights_is_noticed_before_they_are_saved_though_its_loss_was_finite(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, value: float, step: int, every: int
) -> None:
    update, updates = Engine.step, 0

    def broken(self: Engine, loss: torch.Tensor) -> None:
        nonlocal updates
        update(self, loss)
        updates += 1
        if updates == step:
            with torch.no_grad():
                self.module.get_parameter("top.linear.bias")[1] = value

    monkeypatch.setattr(Engine, "step", broken)
    text = stop(runs, f"train.checkpoint_every={every}")
    assert text.startswith(f"step {step}: model top.linear.bias is {value}, ")
    if every:
        assert runs.finite()
    else:  # it broke in the last step of the first epoch: neither best nor last were written, and no rate
        assert not (runs.folder("run") / "checkpoints").exists()
        assert runs.metrics(kind="validation") == []


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("lr", ["1e5", "1e20", "1e38"])
def test_a_learning_rate_far_too_high_ends_in_one_line_and_no_broken_checkpoint(
    runs: Runs, lr: str, every: int
) -> None:
    words = [f"schedule.lr={lr}", "schedule.warmup=0", "schedule.epochs=20", f"train.checkpoint_every={every}"]
    assert "try a lower schedule.lr" in stop(runs, *words)
    assert runs.finite() or not (runs.folder("run") / "checkpoints").exists()


def test_an_update_whose_gradient_overflows_in_fp16_is_left_out_and_the_run_goes_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train.precision=fp16", "train.ema=0.5", "schedule.epochs=3"]
    monkeypatch.setattr(LossScale, "START", 2.0**24)
    runs.train(*words)
    last = runs.load()
    left_out = round(24 - math.log2(last["loss_scale"]["value"]))
    assert 0 < left_out < 12, "some steps overflow and some do not, or the test says nothing"
    assert last["average"]["updates"] == last["loss_scale"]["finite_updates"] == 12 - left_out
    norms = [line["grad_norm"] for line in runs.metrics()]
    assert norms[:left_out] == [0.0] * left_out and all(0 < norm < math.inf for norm in norms[left_out:])
    assert runs.finite()


def test_a_loss_scale_that_has_fallen_to_one_stays_there_when_a_run_goes_on() -> None:
    fallen, resumed, other = LossScale(True), LossScale(True), LossScale(True)
    while fallen.value > 1:
        fallen.allows(torch.tensor(math.inf))
    fallen.allows(torch.tensor(1.0))
    resumed.load(fallen.state())
    assert (resumed.value, resumed.finite_updates) == (1, 1)
    other.load(LossScale(False).state())  # a run that began in another precision
    assert other.value == LossScale.START


def test_a_gradient_that_no_loss_scale_makes_finite_stops_the_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScale, "START", 4.0)
    monkeypatch.setattr(Engine, "norm", lambda self, gradients: torch.tensor(math.nan))
    text = stop(runs, "train.precision=fp16")
    assert text.startswith("step 2: grad_norm is nan, "), "after scales of 4 and 2"

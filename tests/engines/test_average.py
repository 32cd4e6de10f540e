"""The average of the weights: its values, its batch-norm statistics, and that training does not notice it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.errors import UserError
from dist_advss.training import checkpoint, made_from

from ..training.conftest import Runs
from .test_engine_of_one_process import config, engine, equal, task, train

BATCHES = 4  # of an epoch of `Runs`


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def parameters(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().clone() for name, p in module.named_parameters()}


def test_it_is_the_moving_mean_of_the_weights_after_each_update() -> None:
    runner = engine(config("train.ema=0.5"))
    expected = parameters(runner.module)
    for step in range(8):
        train(runner, range(step, step + 1))
        decay = min(0.5, (1 + step) / (10 + step))  # 0.1, 0.18, … 0.47, 0.5
        expected = {name: decay * expected[name] + (1 - decay) * w for name, w in parameters(runner.module).items()}
    before = {name: t.clone() for name, t in runner.module.state_dict().items()}
    with runner.judged():
        for name, value in parameters(runner.module).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    assert equal(before, runner.module.state_dict())


def test_its_statistics_are_the_means_over_the_counted_passes_alone() -> None:
    """By a look at what goes into each batch norm: mean and unbiased variance of a pass, then the mean over passes."""
    runner = engine(config("train.ema=0.9"))
    train(runner, range(3))
    average, module = runner.average, runner.module
    assert average is not None
    before = {name: t.clone() for name, t in module.state_dict().items()}
    seen: dict[str, list[torch.Tensor]] = {}
    with average.applied(), average.fit() as counting:
        norms = {name: m for name, m in module.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for step in range(3):
            made, x_adv = task(module, step)
            module.judge(3 * x_adv, made)  # an attack, say
            handles = [
                m.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].detach()))
                for name, m in norms.items()
            ]
            with counting():
                module(made, x_adv)
            for handle in handles:
                handle.remove()
    assert norms and equal(before, module.state_dict())
    with runner.judged():
        for name, norm in norms.items():
            passes = [x.double().transpose(0, 1).flatten(1) for x in seen[name]]
            assert len(passes) == 3 * 2  # clean and adversarial
            for found, by_pass in (
                (norm.running_mean, [x.mean(1) for x in passes]),
                (norm.running_var, [x.var(1) for x in passes]),
            ):
                torch.testing.assert_close(found.double(), torch.stack(by_pass).mean(0), rtol=1e-4, atol=1e-5)


def test_training_does_not_notice_it_and_zero_is_none(runs: Runs) -> None:
    for name, words in {"without": [], "zero": ["train.ema=0", "train.awp=0"], "with": ["train.ema=0.9"]}.items():
        runs.train(*words, name=name)
    without, average = runs.load("without"), runs.load("with")
    assert runs.outcome("zero") == runs.outcome("without") and "average" not in without
    assert equal(without["model"], average["model"])
    losses = [[line["loss"] for line in runs.metrics(name)] for name in ("without", "with")]
    assert losses[0] == losses[1]


def test_the_average_is_what_is_validated_saved_and_transferred(runs: Runs) -> None:
    runs.train("train.ema=0.9", name="averaged")
    last, best = runs.load("averaged"), runs.load("averaged", "best_ra")
    judged = checkpoint.judged(last)
    assert judged.keys() == last["model"].keys() and not equal(judged, last["model"])
    weights, loaded = made_from.load_weights(runs.folder("averaged") / "checkpoints" / "last.pt")
    assert equal(weights, judged) and loaded.digest == runs.result("averaged")["last"]["weights"]
    assert checkpoint.digest(best["model"]) == runs.result("averaged")["best_ra"]["weights"]
    # A run that begins with the average, makes no step worth the name and has no average, validates the same encoder.
    init = f"init={runs.folder('averaged')}"
    runs.train("objective=classify", init, "freeze=encoder", name="tuned", command="finetune")
    tuned = runs.load("tuned")["model"]
    assert all(torch.equal(t, judged[name]) for name, t in tuned.items() if name.startswith("encoder."))


@pytest.mark.parametrize(
    "words",
    [
        ["objective=joint", "objective.selfie.layers=1", "objective.selfie.heads=4", "objective.selfie.ffn=16"],
        ["objective=simclr", "objective.projector=16", "validation.limit=32"],
    ],
)
def test_a_loss_of_gradients_and_one_of_whole_batches_take_an_average_and_awp(runs: Runs, words: list[str]) -> None:
    runs.train(*words, "schedule.epochs=1", "schedule.lr=0.01", "train.ema=0.9", "train.awp=0.01")
    last = runs.load()
    assert runs.finite() and last["average"]["fitted"] and not equal(checkpoint.judged(last), last["model"])


def test_in_the_middle_of_an_epoch_the_trained_weights_are_judged(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The averaged ones have no statistics there."""
    runner = engine(config("train.ema=0.9"))
    train(runner, range(2))
    state = runner.state()
    assert checkpoint.judged(state) is state["model"]


def test_a_damaged_average_is_a_damaged_checkpoint(runs: Runs) -> None:
    runs.train("train.ema=0.9", "schedule.epochs=1")
    for broken in ([1], {"fitted": True}, {"fitted": True, "model": 3}):
        path = runs.folder("run") / "checkpoints" / "broken.pt"
        torch.save({**runs.load(), "average": broken}, path)
        with pytest.raises(UserError, match="average"):
            checkpoint.load(path)

"""Adversarial weight perturbation: where the gradient is taken, and that nothing of it stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dist_advss.errors import UserError

from .test_engine_of_one_process import config, engine, equal, task

GAMMA = 0.03


def made(runner: Any, step: int = 0) -> Any:
    """A task and its adversarial images, in the precision of the module's weights."""
    exact = next(runner.module.parameters()).dtype
    given, x_adv = task(runner.module, step)
    given.inputs = given.inputs.to(exact)
    return given, x_adv.to(exact)


@pytest.mark.parametrize("objective", ["classify", "trades", "mart", "rotation"])
def test_the_update_is_that_at_the_weights_moved_up_the_loss(objective: str) -> None:
    """w + gamma |w| g / |g| for every matrix, then SGD from w (Wu et al. 2020, algorithm 1), in float64 to 1e-6."""
    command = "pretrain" if objective == "rotation" else "finetune"
    runner = engine(config(f"objective={objective}", f"train.awp={GAMMA}", "schedule.momentum=0", command=command))
    runner.module.double().train()
    reference = copy.deepcopy(runner.module)
    given, x_adv = made(runner)
    before = {name: p.detach().clone() for name, p in reference.named_parameters()}
    gradient = torch.autograd.grad(reference(given, x_adv).loss, list(reference.parameters()))
    with torch.no_grad():
        for p, g in zip(reference.parameters(), gradient, strict=True):
            if p.dim() >= 2:
                p.add_(GAMMA * p.pow(2).sum().sqrt() * g / g.pow(2).sum().sqrt())
    reference(given, x_adv).loss.backward()
    runner.set_lr(0.1)
    runner.perturb(given, x_adv)
    for (name, p), moved in zip(runner.module.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, moved, rtol=1e-6, atol=1e-9, msg=name)
    runner.step(runner(given, x_adv).loss)
    for name, p in runner.module.named_parameters():
        moved = dict(reference.named_parameters())[name]
        assert moved.grad is not None
        expected = before[name] - 0.1 * (moved.grad + 3e-4 * before[name])
        torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-9, msg=name)


def test_the_loss_is_higher_at_the_moved_weights_and_the_statistics_stay() -> None:
    runner = engine(config(f"train.awp={GAMMA}"))
    runner.module.train()
    given, x_adv = made(runner)
    buffers = {name: b.clone() for name, b in runner.module.named_buffers()}
    losses = []
    for move in (False, True):
        if move:
            runner.perturb(given, x_adv)
            assert equal(buffers, dict(runner.module.named_buffers()))
        kept = copy.deepcopy(runner.module)
        losses.append(float(kept(given, x_adv).loss.detach()))
    assert losses[1] > losses[0]


def test_a_step_of_length_zero_leaves_the_weights_to_the_last_bit() -> None:
    runner = engine(config(f"train.awp={GAMMA}"))
    runner.module.train()
    before = {name: p.detach().clone() for name, p in runner.module.named_parameters()}
    for step in range(3):
        runner.set_lr(0.0)
        given, x_adv = made(runner, step)
        runner.perturb(given, x_adv)
        assert not equal(before, dict(runner.module.named_parameters()))
        runner.step(runner(given, x_adv).loss)
        assert equal(before, dict(runner.module.named_parameters()))


@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_a_matrix_without_a_usable_gradient_stays(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp16 a gradient may overflow, which the loss scale answers after the backward pass."""
    runner = engine(config(f"train.awp={GAMMA}"))
    runner.module.train()
    monkeypatch.setattr(runner, "loss_gradient", lambda _, __, ps: [torch.full_like(p, value) for p in ps])
    before = {name: p.detach().clone() for name, p in runner.module.named_parameters()}
    runner.perturb(*made(runner))
    assert equal(before, dict(runner.module.named_parameters()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.awp=0.01", "train.accumulate=2"], "train.accumulate=1"),
        (["train.awp=0.01", "engine=deepspeed", "engine.zero=3"], "engine=fsdp"),
        (["train.ema=0.9", "engine=deepspeed", "engine.zero=3"], "engine=fsdp"),
        (["train.awp=0.01", "schedule.epochs=2", "train.awp_after=2"], "train.awp_after=2"),
        (["train.awp_after=2"], "set it too"),
        (["train.ema=1"], "0.999999"),
    ],
)
def test_what_cannot_work_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*words)

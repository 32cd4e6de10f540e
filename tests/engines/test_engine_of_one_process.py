"""The engine of one process: a step is what the optimizer's own formula says, and its state is all there is to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dist_advss import engines, objectives
from dist_advss.config.compose import compose
from dist_advss.engines.optim import build_optimizer
from dist_advss.objectives.base import Task
from dist_advss.rng import Rng

N = 12


def config(*words: str, command: str = "pretrain") -> Any:
    return compose(command, ["model.width=4", "out=RUN", *words])


def engine(settings: Any) -> engines.Engine:
    return engines.build(settings, objectives.build(settings), engines.World(torch.device("cpu")))


def task(module: Any, step: int) -> tuple[Task, torch.Tensor]:
    rng = Rng(step).at(0, step).rows(torch.arange(N))
    made = module.prepare(rng.uniform("images", (1, 28, 28)), torch.arange(N) % 10, rng)
    return made, (made.inputs + 0.05 * rng.uniform("noise", (1, 28, 28), -1, 1)).clamp(0, 1)


def train(runner: engines.Engine, steps: range, lr: float = 0.1) -> None:
    runner.module.train()
    for step in steps:
        runner.set_lr(lr / (step + 1))
        runner.step(runner(*task(runner.module, step)).loss)


def weights(runner: engines.Engine) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in runner.state()["model"].items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_steps_are_those_of_the_formula(nesterov: bool) -> None:
    """v = m v + (g + wd p); p = p - lr v, or with Nesterov p - lr (g + wd p + m v) (Sutskever et al. 2013, as torch has it)."""
    settings = config(f"schedule.nesterov={nesterov}", "schedule.momentum=0.9", "schedule.weight_decay=0.01")
    runner, reference = engine(settings), objectives.build(settings).train()
    train(runner, range(3))
    velocity: dict[str, torch.Tensor] = {}
    for step in range(3):
        reference.zero_grad()
        reference(*task(reference, step)).loss.backward()
        with torch.no_grad():
            for name, p in reference.named_parameters():
                assert p.grad is not None
                gradient = p.grad + 0.01 * p
                velocity[name] = gradient + 0.9 * velocity.get(name, torch.zeros_like(p))
                p.sub_(0.1 / (step + 1) * (gradient + 0.9 * velocity[name] if nesterov else velocity[name]))
    found = weights(runner)
    for name, p in reference.state_dict().items():
        torch.testing.assert_close(found[name], p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_state_taken_up_by_another_engine_goes_on_bit_for_bit(optimizer: str, precision: str) -> None:
    settings = config(f"schedule.optimizer={optimizer}", f"train.precision={precision}")
    whole, first = engine(settings), engine(settings)
    train(whole, range(4), lr=0.01)
    train(first, range(2), lr=0.01)
    state = first.state()
    kept = {name: t.clone() for name, t in state["model"].items()}
    second = engine(replace(settings, seed=5))
    second.load(state)
    train(second, range(2, 4), lr=0.01)
    assert equal(weights(second), weights(whole))
    assert not equal(weights(second), kept)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_only_what_is_trained_is_in_the_optimizer(optimizer: str) -> None:
    settings = config(f"schedule.optimizer={optimizer}", command="finetune")
    module = objectives.build(settings)
    everything = build_optimizer(settings.schedule, module).param_groups[0]["params"]
    assert len(everything) == len(list(module.parameters()))
    module.freeze("encoder")
    rest = build_optimizer(settings.schedule, module).param_groups[0]["params"]
    assert {id(p) for p in rest} == {id(p) for p in module.get_submodule("top").parameters()}


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", "SGD"), ("adamw", "AdamW"), ("lars", "Lars")])
def test_the_schedule_names_its_optimizer_with_its_settings(optimizer: str, kind: str) -> None:
    schedule = replace(config().schedule, optimizer=optimizer, lr=0.25, weight_decay=0.03, momentum=0.8)
    built = build_optimizer(schedule, nn.Linear(2, 2))
    group = built.param_groups[0]
    assert type(built).__name__ == kind
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.03)
    assert optimizer == "adamw" or group["momentum"] == 0.8


def test_set_lr_is_the_rate_of_the_next_step() -> None:
    runner = engine(config("schedule.momentum=0", "schedule.weight_decay=0"))
    before = weights(runner)
    train(runner, range(1), lr=0.0)
    parameters = dict(runner.module.named_parameters())
    assert all(torch.equal(weights(runner)[name], before[name]) for name in parameters)
    train(runner, range(1), lr=0.1)
    assert not any(torch.equal(weights(runner)[name], before[name]) for name in parameters)


def test_gradients_do_not_pile_up_over_steps() -> None:
    runner = engine(config("schedule.momentum=0", "schedule.weight_decay=0"))
    train(runner, range(3))
    reference = objectives.build(config())
    reference.load_state_dict(runner.state()["model"])
    runner.set_lr(0.0)
    runner.step(runner(*task(runner.module, 3)).loss)
    reference.train()(*task(reference, 3)).loss.backward()
    for mine, theirs in zip(runner.module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_mixed_precision_computes_in_half_and_keeps_weights_and_losses_whole() -> None:
    runner = engine(config("train.precision=bf16"))
    seen: list[torch.dtype] = []
    runner.module.get_submodule("encoder.conv1").register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    outcome = runner(*task(runner.module, 0))
    runner.step(outcome.loss)
    assert set(seen) == {torch.bfloat16}
    assert outcome.loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in runner.module.parameters())
    exact = engine(config())
    assert outcome.loss.item() == pytest.approx(exact(*task(exact.module, 0)).loss.item(), rel=0.02)


def test_the_state_is_plain_tensors_and_numbers() -> None:
    runner = engine(config())
    train(runner, range(2))

    def plain(node: Any) -> bool:
        if isinstance(node, dict):
            return all(map(plain, node.values()))
        if isinstance(node, list):
            return all(map(plain, node))
        if isinstance(node, torch.Tensor):
            return node.device.type == "cpu" and not node.requires_grad
        return node is None or isinstance(node, (int, float, str))

    assert plain(runner.state())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_backward_and_update_apart_are_a_step(precision: str) -> None:
    settings = config("train.accumulate=2", "train.batch_size=24", "train.clip=0.5", f"train.precision={precision}")
    whole, apart = engine(settings), engine(settings)
    train(whole, range(4))
    apart.module.train()
    for step in range(4):
        apart.set_lr(0.1 / (step + 1))
        apart.backward(apart(*task(apart.module, step)).loss)
        if step % 2 == 1:
            apart.update()
    assert equal(weights(apart), weights(whole))
    assert torch.equal(apart.grad_norm, whole.grad_norm)
    assert apart.grad_norm > 0


def test_running_statistics_move_as_far_in_an_update_of_several_parts_as_in_one_of_the_whole() -> None:
    """All parts are the same images, so that means agree: after n updates (1 - m)^n of the first ones is left."""
    means = []
    for parts in (1, 2, 3):
        runner = engine(
            config(f"train.accumulate={parts}", "train.batch_size=96", "objective=classify", command="finetune")
        )
        runner.module.train()
        made = task(runner.module, 0)[0]
        runner.set_lr(0.0)
        for _ in range(2 * parts):
            runner.step(runner(made, None).loss)
        means.append({name: t for name, t in weights(runner).items() if "running_" in name})
    assert means[0]
    for other in means[1:]:
        for name, value in means[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_what_follows_the_weights_is_told_once_an_update_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = engine(config("train.accumulate=2"))
    weight = next(iter(runner.trained().values()))
    seen = [weight.detach().clone()]
    monkeypatch.setattr(runner.module, "after_update", lambda: seen.append(weight.detach().clone()))
    train(runner, range(4))
    assert len(seen) == 3 and torch.equal(seen[-1], weight)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])

"""A step on fake tensors is the step that training makes: held against real tensors and the real engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dist_advss import attacks, objectives
from dist_advss.engines.optim import build_optimizer
from dist_advss.plan.estimate import Cluster, estimate
from dist_advss.plan.memory import memory
from dist_advss.plan.meter import Meter
from dist_advss.plan.step import count, measure
from dist_advss.rng import Rng
from tests.flops import flops_per_image

from .conftest import SELFIE

Config = Callable[..., Any]
ON = "train.activation_checkpointing=true"
METHODS = {
    "rotation": ("pretrain", ()),
    "jigsaw": ("pretrain", ("objective=jigsaw",)),
    "selfie": ("pretrain", SELFIE),
    "anchor": ("pretrain", ("objective=anchor", "objective.teacher=elsewhere", "objective.projector=8")),
    "classify": ("finetune", ("objective=classify",)),
    "trades": ("finetune", ("objective=trades",)),
    "free": ("finetune", ("attack=free",)),
    "apgd": ("finetune", ("attack=apgd2",)),
    "mart": ("finetune", ("objective=mart", "objective.label_smoothing=0.1")),
    "frozen": ("finetune", ("freeze=encoder", "init=elsewhere", "data=fashion_mini", "model=preact_small")),
    "vit": ("pretrain", ("model=timm:test_vit", "model.patch=7", "model.width=null")),
    "recomputed": ("pretrain", (ON,)),
    "half": ("pretrain", ("train.precision=bf16", "attack.precision=bf16")),
}


@pytest.mark.parametrize("method", METHODS)
def test_fake_tensors_count_what_real_ones_do(method: str, config: Config) -> None:
    command, words = METHODS[method]
    wanted = config("model.width=4", *words, "attack.steps=3", command=command)
    objective = objectives.build(wanted)
    objective.to(memory_format=torch.channels_last)
    fake, real = count(wanted, 4), measure(wanted, objective, 4)
    for name in ("prepare", "first", "second", "forward", "backward", "update"):
        ours, theirs = getattr(fake, name), getattr(real, name)
        assert [(op.name, op.flops) for op in ours.operators] == [(op.name, op.flops) for op in theirs.operators]
        assert ours.bytes == pytest.approx(theirs.bytes, rel=0.03)  # batch norm keeps its statistics in other types
    assert fake.attack_memory == pytest.approx(real.attack_memory, rel=0.02)
    assert fake.update_memory == pytest.approx(real.update_memory, rel=0.02)
    assert (fake.units, fake.norms, fake.trained) == (real.units, real.norms, real.trained)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("method", ["rotation", "trades", "apgd"])
def test_an_attack_of_k_steps_costs_what_running_it_costs(method: str, steps: int, config: Config) -> None:
    command, words = METHODS[method]
    wanted = config(*words, "model.width=4", f"attack.steps={steps}", command=command)
    objective = objectives.build(wanted)
    objective.to(memory_format=torch.channels_last)
    rng = Rng(0).at(0, 0).rows(torch.arange(4))
    images = torch.rand(4, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    with Meter() as meter:
        task = objective.prepare(images, torch.zeros(4, dtype=torch.int64), rng)
        with meter.phase() as work:
            attacks.build(wanted.attack, objective)(objective.attack_loss, task)
    step = count(wanted, 4)
    assert step.attack_flops == work.flops
    assert step.over_attack(step.first.bytes, step.second.bytes) == work.bytes


def test_free_training_costs_its_updates_and_the_gradients_in_the_images(config: Config) -> None:
    once, free = (
        config("model.width=4", "engine=ddp", f"attack={name}", "attack.steps=3", command="finetune")
        for name in ("pgd10", "free")
    )
    one, three = count(once, 4), count(free, 4)
    assert (one.replays, three.replays, three.attack_flops, three.attack_memory) == (1, 3, 0, 0)
    assert three.backward.flops > one.backward.flops
    assert three.update_flops == 3 * (three.forward.flops + three.backward.flops)
    machine = Cluster(gpu="a100", nodes=2)
    sent, thrice = ([(t.what, t.calls, t.bytes) for t in estimate(wanted, machine).traffic] for wanted in (once, free))
    assert thrice == [(what, 3 * calls, 3 * size) for what, calls, size in sent]


def test_pgd_10_costs_ten_times_forward_and_input_gradient_and_the_update_two_times_three(config: Config) -> None:
    wanted = config("attack.steps=10")
    objective = objectives.build(wanted)
    assert isinstance(objective.top, torch.nn.Module)
    network = torch.nn.Sequential(objective.encoder, objective.top)
    forward = flops_per_image(network, (1, 28, 28)) * 8
    step = count(wanted, 8)
    assert step.attack_flops == pytest.approx(10 * 2 * forward, rel=1e-3)
    assert step.update_flops == pytest.approx(2 * 3 * forward, rel=0.01)  # the stem needs no gradient to clean images
    assert (step.attack_looks, step.update_looks) == (10, 2)


def test_without_an_attack_only_the_update_is_left(config: Config) -> None:
    step = count(config("attack=none"), 4)
    assert (step.attack_flops, step.attack_looks, step.attack_memory, step.update_looks) == (0, 0, 0, 1)


def test_flops_and_activations_grow_with_the_images_and_the_optimizer_does_not(config: Config) -> None:
    few, many = count(config(), 8), count(config(), 64)
    assert many.attack_flops == 8 * few.attack_flops
    assert many.update_memory == pytest.approx(8 * few.update_memory, rel=0.05)
    assert many.optimizer_bytes == few.optimizer_bytes == 4 * few.trained


def test_adamw_keeps_two_numbers_for_each_weight(config: Config) -> None:
    step = count(config("schedule.optimizer=adamw"), 4)
    assert step.optimizer_bytes == 8 * step.parameters


def test_a_frozen_encoder_has_neither_gradients_nor_moving_batch_norms(config: Config) -> None:
    free, frozen = (count(config(*METHODS[name][1], command="finetune"), 4) for name in ("classify", "frozen"))
    assert frozen.parameters == free.parameters
    assert frozen.trained < free.trained
    assert len(frozen.norms) < len(free.norms)
    assert frozen.update_memory < free.update_memory


def test_half_precision_halves_most_of_what_is_kept_for_the_backward_pass(config: Config) -> None:
    full, half = count(config(), 32), count(config("train.precision=bf16", "attack.precision=bf16"), 32)
    assert 0.4 < half.update_memory / full.update_memory < 0.75
    assert half.attack_flops == full.attack_flops


def test_activation_checkpointing_keeps_less_and_computes_each_block_once_more(config: Config) -> None:
    kept, again = (count(config("model=resnet50v2", *words), 16) for words in ((), (ON,)))
    assert again.attack_memory < 0.5 * kept.attack_memory
    assert again.update_memory < 0.5 * kept.update_memory
    # At most: what no gradient needs, such as a block's last convolution, is not computed again.
    assert 1.3 < again.attack_flops / kept.attack_flops < 3 / 2
    assert 1.2 < again.update_flops / kept.update_flops < 4 / 3


@pytest.mark.parametrize("words", [(), (ON,)])
def test_memory_is_that_of_a_real_training_step(words: tuple[str, ...], config: Config) -> None:
    wanted = config("attack.steps=2", *words)
    with Meter() as meter:
        objective = objectives.build(wanted)
        objective.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(wanted.schedule, objective)
        attack = attacks.build(wanted.attack, objective)
        for number in range(2):
            rng = Rng(0).at(0, number).rows(torch.arange(64))
            images = torch.rand(64, 1, 28, 28).contiguous(memory_format=torch.channels_last)
            meter.peak = meter.alive
            task = objective.prepare(images, torch.zeros(64, dtype=torch.int64), rng)
            outcome = objective(task, attack(objective.attack_loss, task))
            optimizer.zero_grad(set_to_none=True)
            outcome.loss.backward()
            optimizer.step()
            del outcome
    assert memory(wanted, count(wanted, 64), world=1, per_node=1).total == pytest.approx(meter.peak, rel=0.02)


def test_counting_draws_nothing_and_computes_nothing(config: Config) -> None:
    before = torch.random.get_rng_state()
    wide = config("model=wrn34_10", "data=cifar10", "data.root=.")
    step = count(wide, 2**14)  # 750 GB of activations
    assert torch.equal(torch.random.get_rng_state(), before)
    assert step.update_memory > 5e11

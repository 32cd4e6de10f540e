"""F1 and F2 keep theta_p; what a step trains, and how often batch norms move."""

from __future__ import annotations

import pytest
import torch

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.objectives import Objective

SUPERVISED = ["classify", "trades", "mart"]
PRETEXT = ["rotation", "jigsaw", "selfie"]


def one_step(objective: Objective, rng, batch, steps: int) -> None:
    """Forward and backward of one training step; attacked when there are steps."""
    images, labels = batch(8)
    task = objective.prepare(images, labels, rng(8))
    x_adv = PGD(Attack(eps=0.06, steps=steps), objective)(objective.attack_loss, task) if steps else None
    objective(task, x_adv).loss.backward()


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize("steps", [0, 3], ids=["F1", "F2"])
def test_a_frozen_encoder_keeps_weights_and_statistics(make, rng, batch, name: str, steps: int) -> None:
    objective = make(name, freeze="encoder")
    before = {k: v.clone() for k, v in objective.encoder.state_dict().items()}
    objective.train()
    one_step(objective, rng, batch, steps)
    assert all(torch.equal(v, before[k]) for k, v in objective.encoder.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in objective.encoder.parameters())
    assert all(p.grad is not None and p.requires_grad for p in objective.get_submodule("top").parameters())
    assert objective.get_buffer("top.bn.num_batches_tracked") > 0


def test_a_frozen_encoder_stays_in_eval_mode_through_validation_and_attacks(make, rng, batch) -> None:
    objective = make("classify", freeze="encoder")
    for _ in range(2):
        objective.eval()
        objective.train()
        one_step(objective, rng, batch, steps=2)
        assert not any(module.training for module in objective.encoder.modules())
        assert all(module.training for module in objective.get_submodule("top").modules())


@pytest.mark.parametrize("name", SUPERVISED + PRETEXT)
def test_otherwise_every_parameter_is_trained(make, rng, batch, name: str) -> None:
    objective = make(name)
    one_step(objective, rng, batch, steps=2)
    assert [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(p.requires_grad for p in objective.parameters())


@pytest.mark.parametrize(
    ("name", "moves"),
    [("rotation", 12), ("jigsaw", 12), ("selfie", 12), ("classify", 11)],
)
def test_batch_norms_move_as_often_as_in_the_paper(make, rng, batch, name: str, moves: int) -> None:
    # ten attack steps, then adversarial and (in pre-training) clean images
    objective = make(name)
    one_step(objective, rng, batch, steps=10)
    assert objective.get_buffer("encoder.layer1.0.bn1.num_batches_tracked") == moves


@pytest.mark.parametrize("name", PRETEXT)
def test_pre_training_weighs_clean_and_adversarial_images_alike(make, rng, batch, name: str) -> None:
    objective = make(name)
    images, labels = batch(8)
    task = objective.prepare(images, labels, rng(8))
    outcome = objective(task, (task.inputs + 0.05).clamp(0, 1))
    clean, adversarial = outcome.clean.loss, outcome.adversarial.loss
    assert clean.shape == adversarial.shape == (8,)
    assert outcome.loss.item() == pytest.approx((clean.mean().item() + adversarial.mean().item()) / 2, rel=1e-6)
    assert outcome.terms().keys() == {
        "loss",
        "loss_clean",
        "loss_adversarial",
        "accuracy_clean",
        "accuracy_adversarial",
    }


@pytest.mark.parametrize("name", SUPERVISED + PRETEXT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_fp32_and_about_the_same_in_half_precision(make, rng, batch, name: str, dtype) -> None:
    objective = make(name)
    images, labels = batch(8)
    task = objective.prepare(images, labels, rng(8))
    x_adv = (task.inputs + 0.05).clamp(0, 1)
    full = objective(task, x_adv)
    with torch.autocast("cpu", dtype):
        half = objective(task, x_adv)
    assert half.loss.dtype == torch.float32
    assert half.adversarial.loss.dtype == half.adversarial.correct.dtype == torch.float32
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.05)

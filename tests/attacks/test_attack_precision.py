"""Mixed precision changes what the network computes in, never what the perturbation is kept in."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD, AutoAttack
from dist_advss.attacks.pgd import Rows
from dist_advss.config.attack import Attack
from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
each_half = pytest.mark.parametrize("precision", HALF)


@each_half
def test_the_network_runs_in_half_precision_and_the_perturbation_stays_fp32(trained, precision: str) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    def loss(x: Tensor, task: Task) -> Tensor:
        logits = trained.net(x)
        seen.append((x.dtype, logits.dtype))
        return nn.functional.cross_entropy(logits.float(), task.targets, reduction="none")

    task = trained.task(8)
    found = PGD(Attack(eps=0.05, steps=3, restarts=2, precision=precision), trained.net)(loss, task)
    assert set(seen) == {(torch.float32, HALF[precision])}
    assert found.dtype == torch.float32
    assert (found - task.inputs).abs().max() <= 0.05 + 1e-7
    assert not torch.equal(found.to(HALF[precision]).float(), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_far_below_a_half_precision_ulp_of_the_image_add_up(norm: str, dtype: torch.dtype) -> None:
    # at 0.9 the ulp is 2^-11 in fp16 and 2^-8 in bf16; ten steps of 1e-5 (each pixel) must still make 1e-4
    clean = torch.full((2, 1, 4, 4), 0.9, dtype=dtype)
    task = Task(clean, torch.zeros(2), Rng(0).rows(torch.arange(2)))
    length = {"linf": 1.0, "l2": 4.0}[norm]  # 16 pixels
    config = Attack(norm=norm, eps=1e-3 * length, steps=10, step_size=1e-5 * length, random_start=False)
    found = PGD(config, nn.Identity())(lambda x, t: x.float().flatten(1).sum(1), task)
    assert torch.allclose(found - clean.float(), torch.full_like(found, 1e-4), rtol=0.02)


def test_a_gradient_below_the_range_of_fp16_still_moves_every_pixel() -> None:
    # d loss / d output is 1e-8, which fp16 rounds to 0
    layer = nn.Linear(16, 1)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    task = Task(torch.full((2, 1, 4, 4), 0.5), torch.zeros(2), Rng(0).rows(torch.arange(2)))
    config = Attack(eps=0.1, steps=4, step_size=0.025, random_start=False, precision="fp16")
    found = PGD(config, layer)(lambda x, t: 1e-8 * layer(x.flatten(1)).float()[:, 0], task)
    assert torch.allclose(found, torch.full_like(found, 0.6))


@each_half
def test_the_attack_is_about_as_strong_in_half_precision(trained, precision: str) -> None:
    task = trained.task()
    accuracy = {}
    for p in ("fp32", precision):
        found = PGD(Attack(eps=0.06, steps=10, precision=p), trained.net)(trained.loss, task)
        accuracy[p] = trained.correct(found).float().mean()
    assert abs(accuracy[precision] - accuracy["fp32"]) <= 0.02


@pytest.mark.parametrize("precision", ["fp32", *HALF])
def test_no_precision_warns_of_anything(trained, precision: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(Attack(eps=0.05, steps=1, restarts=2, precision=precision), trained.net)(trained.loss, trained.task(8))


@pytest.mark.parametrize("sharper", [1.0, 2.0, 4.0])
def test_in_fp16_the_gradients_of_sure_answers_keep_their_signs(trained, sharper: float) -> None:
    """With logits four times as large most losses are tiny; fewer than 0.1% of pixels may lose their direction."""

    def loss(x: Tensor, task: Task) -> Tensor:
        return nn.functional.cross_entropy(sharper * trained.net(x).float(), task.targets, reduction="none")

    task = trained.task()
    gradients = {}
    for precision in ("fp32", "fp16"):
        attack = PGD(Attack(eps=0.05, steps=1, random_start=False, precision=precision), trained.net)
        (gradients[precision],) = attack._gradients(loss, attack.start(task, 0), Rows.of(task))
    assert (loss(task.inputs, task) < 0.1 / sharper).float().mean() > 0.2
    lost = (gradients["fp16"] == 0) & (gradients["fp32"] != 0)
    assert lost.float().mean() < 0.001
    turned = gradients["fp16"].sign() != gradients["fp32"].sign()
    assert turned.float().mean() < 0.02  # of gradients near zero, which rounding may turn


def test_in_fp16_images_in_one_batch_norm_are_scaled_alike() -> None:
    """There they have a say in each other's gradients, so the direction must stay that of the summed loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 1)).train()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    task = Task(images, torch.zeros(4), Rng(0).rows(torch.arange(4)))
    weight = torch.tensor([1.0, 1e-3, 1.0, 1e-3])

    def loss(x: Tensor, task: Task) -> Tensor:
        return weight * net(x).float()[:, 0].square()

    found = {}
    for precision in ("fp32", "fp16"):
        attack = PGD(Attack(eps=0.05, steps=1, random_start=False, precision=precision, batch_norm="batch"), net)
        (found[precision],) = attack._gradients(loss, attack.start(task, 0), Rows.of(task))
    a, b = found["fp32"].flatten(), found["fp16"].flatten()
    assert nn.functional.cosine_similarity(a, b, dim=0) > 0.999


@pytest.mark.parametrize("name", ["pgd-ce", "apgd-ce", "square"])
def test_an_image_that_half_precision_alone_gets_wrong_is_attacked_in_fp32(name: str) -> None:
    # Logits near 100 are whole halves in bf16, so there the lead of 0.2 is none, and every search would end at its start.
    net = nn.Linear(16, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([0.0, 20 / 16])[:, None].expand(2, 16))
        net.bias.copy_(torch.tensor([100.0, 90.0]))

    def judge(x: Tensor, task: Task) -> Judgement:
        logits = net(x.flatten(1))
        loss = nn.functional.cross_entropy(logits.float(), task.targets, reduction="none")
        return Judgement(loss, (logits.argmax(1) == task.targets).float(), logits)

    x = torch.full((3, 1, 4, 4), 0.51)
    task = Task(x, torch.tensor([1, 1, 1]), Rng(0, "evaluation").rows(torch.arange(3)))
    config = Attack(algorithm="autoattack", cascade=[name], eps=0.02, steps=10, queries=50, precision="bf16")
    attack = AutoAttack(config)
    found = attack.fool(judge, task)
    assert attack.felled_by.tolist() == [1, 1, 1]
    assert judge(found, task).correct.sum() == 0 and (found - x).abs().max() <= 0.02 + 1e-6

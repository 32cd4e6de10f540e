"""Loss and gradients of the convolutional objectives against the formulas, image by image in explicit loops.

The encoder and the top are taken as functions (they have tests of their own); everything around them is computed here
again: the task, the attack from the same random start, the losses and how they are put together. In float64, but for the
logits, which objectives bring to float32; hence the tolerances.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.objectives import Objective

N = 6
ATTACK = Attack(eps=0.06, steps=3, step_size=0.02)

Losses = Callable[[Tensor], Tensor]


def assert_same_gradients(objective: Objective, twin: Objective) -> None:
    for (name, ours), theirs in zip(objective.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            scale = theirs.grad.abs().max().item()
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * scale + 1e-9), name


def cross_entropy(logits: Tensor, target: int) -> Tensor:
    """-log of the softmax probability of the target, one image."""
    largest = logits.max().detach()
    total = sum(((z - largest).exp() for z in logits), start=torch.zeros((), dtype=logits.dtype))
    return largest + total.log() - logits[target]


def attacked(losses: Losses, start: Tensor, clean: Tensor) -> Tensor:
    """PGD in l-inf as the paper writes it: sign, ball, box, last iterate."""
    x = start
    for _ in range(ATTACK.steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses(x).mean(), x)
        x = x + 0.02 * gradient.sign()
        x = clean + (x - clean).clamp(-0.06, 0.06)
        x = x.clamp(0, 1)
    return x.detach()


def rotated_by_hand(objective: Objective, images: Tensor, targets: Tensor) -> Tensor:
    """Counter-clockwise: what was at row r, column c goes to row side - 1 - c, column r."""
    turned = []
    for image, turns in zip(images, targets.tolist(), strict=True):
        for _ in range(turns):
            image = image.transpose(1, 2).flip(1)
        turned.append(image)
    return torch.stack(turned)


def shuffled_by_hand(objective: Objective, images: Tensor, targets: Tensor) -> Tensor:
    shuffled = images.clone()
    for image, result, target in zip(images, shuffled, targets.tolist(), strict=True):
        for place, origin in enumerate(objective.get_buffer("permutations")[target].tolist()):
            for y in range(4):
                for x in range(4):
                    to, of = (place // 4 * 4 + y, place % 4 * 4 + x), (origin // 4 * 4 + y, origin % 4 * 4 + x)
                    result[:, to[0], to[1]] = image[:, of[0], of[1]]
    return shuffled


def untouched(objective: Objective, images: Tensor, targets: Tensor) -> Tensor:
    return images


BY_HAND = {"rotation": rotated_by_hand, "jigsaw": shuffled_by_hand, "classify": untouched}


@pytest.fixture(params=["train", "eval"])
def mode(request: pytest.FixtureRequest) -> str:
    """Batch norm over the batch, or with running statistics, where every image goes through the network alone."""
    return request.param


def logits_of(objective: Objective, x: Tensor, mode: str) -> Tensor:
    def network(images: Tensor) -> Tensor:
        return objective.get_submodule("top")(objective.encoder(images))

    return network(x) if mode == "train" else torch.cat([network(image[None]) for image in x])


def losses_by_hand(objective: Objective, targets: Tensor, mode: str) -> Losses:
    def losses(x: Tensor) -> Tensor:
        answers = zip(logits_of(objective, x, mode), targets.tolist(), strict=True)
        return torch.stack([cross_entropy(logits, target) for logits, target in answers])

    return losses


def pair(make, name: str, mode: str, **settings) -> tuple[Objective, Objective]:
    """An objective with batch norms that do something and logits worth a loss, and a copy of it for the formula."""
    objective = make(name, **settings).double().train(mode == "train")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in objective.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
        objective.get_parameter("top.linear.weight").mul_(10)
    return objective, copy.deepcopy(objective)


@pytest.mark.parametrize("name", BY_HAND)
def test_standard_loss_and_gradients_are_those_of_the_formula(make, rng, batch, name: str, mode: str) -> None:
    objective, twin = pair(make, name, mode)
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    assert torch.equal(task.inputs, BY_HAND[name](twin, images, task.targets))

    outcome = objective(task)
    outcome.loss.backward()
    expected = losses_by_hand(twin, task.targets, mode)(BY_HAND[name](twin, images, task.targets))
    expected.mean().backward()
    assert torch.allclose(outcome.clean.loss.double(), expected, rtol=1e-5)
    assert outcome.loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    assert outcome.adversarial is None
    assert_same_gradients(objective, twin)


@pytest.mark.parametrize("name", BY_HAND)
def test_adversarial_loss_and_gradients_are_those_of_the_formula(make, rng, batch, name: str, mode: str) -> None:
    objective, twin = pair(make, name, mode)
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    pgd = PGD(ATTACK, objective)
    (start,) = pgd.start(task, 0)

    x_adv = pgd(objective.attack_loss, task)
    outcome = objective(task, x_adv)
    outcome.loss.backward()

    clean = BY_HAND[name](twin, images, task.targets)
    losses = losses_by_hand(twin, task.targets, mode)
    expected_x = attacked(losses, start, clean)
    assert (x_adv - expected_x).abs().max() < 1e-9
    adversarial = losses(expected_x)
    if name == "classify":  # F2, F4: adversarial images only
        expected = adversarial.mean()
        assert outcome.clean is None
    else:  # P3: half clean, half adversarial
        expected = (losses(clean).mean() + adversarial.mean()) / 2
    expected.backward()
    assert torch.allclose(outcome.adversarial.loss.double(), adversarial, rtol=1e-5)
    assert adversarial.mean() > losses(start).mean()
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(objective, twin)


@pytest.mark.parametrize("name", BY_HAND)
def test_an_image_is_correct_where_its_largest_logit_is_the_answer(make, rng, batch, name: str) -> None:
    objective = make(name).eval()
    images, labels = batch(32)
    task = objective.prepare(images, labels, rng(32))
    task.targets = logits_of(objective, task.inputs, "train").argmax(1)
    task.targets[::3] = (task.targets[::3] + 1) % 4
    outcome = objective(task)
    assert outcome.clean.correct.tolist() == [0.0 if i % 3 == 0 else 1.0 for i in range(32)]
    terms = outcome.terms()
    assert terms["accuracy_clean"].item() == pytest.approx(21 / 32)
    assert terms.keys() == {"loss", "loss_clean", "accuracy_clean"}
    assert not any(term.requires_grad for term in terms.values())


# ---- TRADES


def divergence_by_hand(clean: Tensor, adversarial: Tensor) -> Tensor:
    """sum_k p_k (log p_k - log q_k), one image."""
    p, q = clean.softmax(0), adversarial.softmax(0)
    terms = [p[k] * (p[k].log() - q[k].log()) for k in range(len(p))]
    return sum(terms, start=torch.zeros((), dtype=p.dtype))


def test_trades_attack_loss_and_gradients_are_those_of_the_formula(make, rng, batch, mode: str) -> None:
    beta = 3.0
    objective, twin = pair(make, "trades", mode, beta=beta)
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    pgd = PGD(ATTACK, objective)
    (start,) = pgd.start(task, 0)
    x_adv = pgd(objective.attack_loss, task)
    outcome = objective(task, x_adv)
    outcome.loss.backward()

    fixed = logits_of(twin, images, mode).detach()

    def divergences(x: Tensor, clean: Tensor = fixed) -> Tensor:
        return torch.stack([divergence_by_hand(p, q) for p, q in zip(clean, logits_of(twin, x, mode), strict=True)])

    expected_x = attacked(divergences, start, images)
    assert (x_adv - expected_x).abs().max() < 1e-9
    clean_logits = logits_of(twin, images, mode)
    kl = divergences(expected_x, clean_logits)
    natural = torch.stack([cross_entropy(z, t) for z, t in zip(clean_logits, labels.tolist(), strict=True)])
    expected = natural.mean() + beta * kl.mean()
    expected.backward()
    assert torch.allclose(outcome.adversarial.loss.double(), kl, rtol=1e-4, atol=1e-6)
    assert torch.allclose(outcome.clean.loss.double(), natural, rtol=1e-5)
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(objective, twin)


def test_trades_divergence_is_zero_between_equals_and_positive_otherwise(make, rng, batch) -> None:
    objective = make("trades").eval()
    images, labels = batch(N)
    task = objective.prepare(images, labels, rng(N))
    assert torch.allclose(objective.attack_loss(images, task), torch.zeros(N), atol=1e-6)
    assert (objective.attack_loss(1 - images, task) > 1e-6).all()


def test_trades_attacks_a_part_of_a_task_against_its_own_clean_images(make, rng, batch) -> None:
    objective = make("trades").eval()
    images, labels = batch(8)
    fresh = objective.prepare(images, labels, rng(8))
    whole = objective.attack_loss(1 - images, fresh).detach()
    index = torch.tensor([6, 1, 3])
    for task in (fresh, objective.prepare(images, labels, rng(8))):  # with and without the clean logits found already
        part = task.select(index)
        assert torch.allclose(objective.attack_loss(1 - images[index], part), whole[index], rtol=1e-4, atol=1e-6)
        assert torch.allclose(objective.attack_loss(1 - images, task), whole, rtol=1e-4, atol=1e-6)


def test_trades_without_adversarial_images_is_cross_entropy(make, rng, batch) -> None:
    images, labels = batch(N)
    trades, classify = make("trades").eval(), make("classify").eval()
    classify.load_state_dict(trades.state_dict())
    task = trades.prepare(images, labels, rng(N))
    assert torch.equal(trades(task).loss, classify(task).loss)

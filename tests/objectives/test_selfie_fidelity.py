"""Selfie against its formula, in loops over images, patches, tokens and heads, in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.objectives import Selfie

N, GRID, SIDE, MASKED = 3, 4, 4, 3
ATTACK = Attack(eps=0.06, steps=2, step_size=0.03)


def softmax(values: list[Tensor]) -> list[Tensor]:
    largest = max(v.item() for v in values)
    exponentials = [(v - largest).exp() for v in values]
    return [e / sum(exponentials) for e in exponentials]


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel 2016, the tanh form."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def transformer_layer(tokens: list[Tensor], layer: nn.Module, heads: int) -> list[Tensor]:
    """Post-norm: attention over one image's tokens, then two dense layers, token by token."""
    width = len(tokens[0])
    size = width // heads
    weight, bias = layer.get_parameter("qkv.weight"), layer.get_parameter("qkv.bias")
    query, key, value = (
        [weight[i : i + width] @ t + bias[i : i + width] for t in tokens] for i in (0, width, 2 * width)
    )
    after = []
    for t, token in enumerate(tokens):
        mixed = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            shares = softmax([query[t][part] @ k[part] / math.sqrt(size) for k in key])
            mixed.append(sum((s * v[part] for s, v in zip(shares, value, strict=True)), start=torch.zeros(size)))
        attended = token + layer.get_submodule("project")(torch.cat(mixed))
        attended = layer_norm(attended, layer.get_submodule("norm_attention"))  # type: ignore[arg-type]
        inner = layer.get_submodule("contract")(gelu(layer.get_submodule("expand")(attended)))
        after.append(layer_norm(attended + inner, layer.get_submodule("norm_ffn")))  # type: ignore[arg-type]
    return after


def codes_by_hand(objective: Selfie, images: Tensor) -> list[list[Tensor]]:
    """Each patch through theta_p and averaged over its pixels; all of them are one batch for batch norm."""
    cut = []
    for image in images:
        for row in range(GRID):
            for column in range(GRID):
                cut.append(image[:, row * SIDE : row * SIDE + SIDE, column * SIDE : column * SIDE + SIDE])
    features = objective.encoder(torch.stack(cut))
    vectors = [torch.stack([channel.mean() for channel in feature]) for feature in features]
    return [vectors[i : i + GRID * GRID] for i in range(0, len(vectors), GRID * GRID)]


def losses_by_hand(objective: Selfie, images: Tensor, masked: list[int], visible: list[int]) -> tuple[Tensor, Tensor]:
    """Loss and share of right answers of each image."""
    losses, shares = [], []
    for codes in codes_by_hand(objective, images):
        tokens = [objective.pooling.query[0, 0], *(codes[v] for v in visible)]
        for layer in objective.pooling.layers:
            tokens = transformer_layer(tokens, layer, heads=2)
        loss, right = torch.zeros(()), 0
        for i, place in enumerate(masked):
            u = tokens[0] + objective.places.row[place // GRID] + objective.places.column[place % GRID]
            scores = [u @ codes[patch] for patch in masked]
            right += int(torch.stack(scores).argmax() == i)
            if objective.double_softmax:
                scores = softmax(scores)
            loss = loss - softmax(scores)[i].log()
        losses.append(loss)
        shares.append(right / len(masked))
    return torch.stack(losses), torch.tensor(shares)


@pytest.fixture(params=[False, True], ids=["one softmax", "double softmax"])
def twins(request: pytest.FixtureRequest, make) -> tuple[Selfie, Selfie]:
    """A Selfie without dropout and with all its parameters in play, and a copy of it for the formula."""
    objective = make("selfie", masked=MASKED, dropout=0.0, double_softmax=request.param).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if not name.startswith("encoder.") and parameter.dim() < 3:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        objective.pooling.query.normal_(generator=generator)
    return objective, copy.deepcopy(objective)


@pytest.fixture(autouse=True)
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_same_gradients(objective: Selfie, twin: Selfie) -> None:
    for (name, ours), theirs in zip(objective.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            # a key's bias cancels in the softmax, so what is left of its gradient is rounding: hence the absolute part
            scale = theirs.grad.abs().max().item()
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * scale + 1e-7), name


def test_standard_loss_and_gradients_are_those_of_the_formula(twins, rng, batch) -> None:
    objective, twin = twins
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    outcome = objective(task)
    outcome.loss.backward()
    masked, visible = (task.shared[name].tolist() for name in ("masked", "visible"))
    losses, shares = losses_by_hand(twin, images, masked, visible)
    losses.mean().backward()
    assert torch.allclose(outcome.clean.loss.double(), losses, rtol=1e-5)
    assert torch.allclose(outcome.clean.correct.double(), shares)
    assert outcome.loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    assert_same_gradients(objective, twin)


def test_adversarial_loss_and_gradients_are_those_of_the_formula(twins, rng, batch) -> None:
    objective, twin = twins
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    masked, visible = (task.shared[name].tolist() for name in ("masked", "visible"))
    pgd = PGD(ATTACK, objective)
    (start,) = pgd.start(task, 0)
    x_adv = pgd(objective.attack_loss, task)
    outcome = objective(task, x_adv)
    outcome.loss.backward()

    x = start
    for _ in range(ATTACK.steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses_by_hand(twin, x, masked, visible)[0].mean(), x)
        x = (images + (x + 0.03 * gradient.sign() - images).clamp(-0.06, 0.06)).clamp(0, 1)
    assert (x_adv - x).abs().max() < 1e-9
    clean, adversarial = (losses_by_hand(twin, inputs, masked, visible)[0].mean() for inputs in (images, x.detach()))
    ((clean + adversarial) / 2).backward()
    assert outcome.loss.item() == pytest.approx(((clean + adversarial) / 2).item(), rel=1e-5)
    assert outcome.adversarial.loss.mean().item() == pytest.approx(adversarial.item(), rel=1e-5)
    assert_same_gradients(objective, twin)


def test_two_softmaxes_leave_less_to_learn_from(make, rng, batch) -> None:
    # probabilities differ by 1 at most, so the loss of each of the 3 questions stays above log(1 + 2/e)
    images, labels = batch(8, torch.float64)
    objective = make("selfie", masked=MASKED, double_softmax=True).double()
    with torch.no_grad():
        objective.places.row.mul_(1000)
    outcome = objective(objective.prepare(images, labels, rng(8)))
    assert (outcome.clean.loss >= 3 * math.log(1 + 2 / math.e) - 1e-6).all()
    assert (outcome.clean.loss <= 3 * math.log(2 + math.e) + 1e-6).all()

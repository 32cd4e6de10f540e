"""Attacks query a faster copy of a classifier, which gives the same logits. The classifier itself gives every reported verdict."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_advss.config.compose import compose
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation.any_model import Given
from dist_advss.evaluation.prepared import Prepared, prepared
from dist_advss.models import build
from dist_advss.models.folded import Affine
from dist_advss.objectives.classify import Classify

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

SHAPE = 3, 32, 32


def settled(model: nn.Module) -> nn.Module:
    """In eval mode, with weights and statistics of batch norms that are unlike those of the start."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name in ("running_mean", "weight", "bias"):
                tensor = getattr(module, name)
                tensor.data.copy_(0.5 + 0.2 * torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))  # type: ignore[union-attr]
    return model.eval()


def of_name(name: str, size: int = 32) -> Classify:
    words = [f"model={name}", "data=folder", "data.root=.", f"data.size={size}", "data.classes=7", "out=unused"]
    words += ["model.width=8"] if name == "preact_small" else []
    config = compose("finetune", words)
    torch.manual_seed(0)
    return settled(Classify(config.objective, build(config.model, config.data), 7))  # type: ignore[return-value]


def kinds(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def gradient(model: Classify, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model.logits(leaf).logsumexp(1).sum(), leaf)[0]


@pytest.mark.parametrize(("name", "affine"), [("preact_small", 5), ("resnet50v2", None), ("tv_resnet18", 0)])
def test_the_copy_has_no_batch_norm_and_the_same_logits_and_gradients(name: str, affine: int | None) -> None:
    size = 64 if name == "tv_resnet18" else 32
    model = of_name(name, size)
    before = copy.deepcopy(model.state_dict())
    ready = prepared(model, (3, size, size))
    assert isinstance(ready, Prepared) and kinds(ready, nn.BatchNorm2d) == 0
    assert affine is None or kinds(ready, Affine) == affine
    assert kinds(ready, Affine) < kinds(model, nn.BatchNorm2d)
    assert not any(weight.requires_grad for weight in ready.parameters())
    x = torch.rand(5, 3, size, size)
    with torch.no_grad():
        ours, expected = ready.logits(x), model.logits(x)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    ours, expected = gradient(ready, x), gradient(model, x)
    assert (ours - expected).flatten(1).norm(dim=1).max() <= 1e-4 * expected.flatten(1).norm(dim=1).max()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


class Blocks(nn.Module):
    """A convolution whose output the next batch norm shares with a sum, one that is called twice, and a way that depends on values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.again, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.bn1(y).relu() + (y if self.kind == "shared" else 0)
        if self.kind == "twice":
            y = self.bn2(self.again(y)).relu()
            y = self.again(y)
        elif self.kind == "depends" and y.mean() > 0:
            y = self.bn2(self.again(y)).relu()
        if self.kind == "random":
            y = y + 0.1 * torch.randn_like(y)
        return self.linear(y.mean((2, 3)))


@pytest.mark.parametrize("kind", ["shared", "twice", "depends"])
def test_only_batch_norms_that_alone_follow_a_convolution_are_folded_into_it(kind: str) -> None:
    torch.manual_seed(0)
    model = Given(settled(Blocks(kind)))
    ready = prepared(model, SHAPE)
    assert kinds(ready, nn.BatchNorm2d) == 0 and kinds(ready, Affine) > 0
    x = torch.rand(5, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(ready.logits(x), model.logits(x), rtol=1e-5, atol=1e-5)


class Holds(nn.Module):
    """Looks at the weights of its batch norm, or at what goes through it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.bn, self.kind, self.doubled = nn.BatchNorm2d(3), kind, 1.0
        if kind == "hook":
            self.bn.register_forward_hook(lambda module, given, found: 2 * found)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.bn.running_var.sum() if self.kind == "reads" else 1  # type: ignore[union-attr]
        return self.bn(x).mean((2, 3)) * scale

    def __deepcopy__(self, memo: object) -> Holds:
        if self.kind == "uncopied":
            raise RuntimeError("not this one")
        copied = Holds(self.kind)
        copied.load_state_dict(self.state_dict())
        return copied.eval()


@pytest.mark.parametrize(
    "model",
    [Blocks("random"), Holds("reads"), Holds("uncopied"), nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))],
    ids=["random", "reads its batch norm", "not copied", "no batch norm"],
)
def test_a_network_that_cannot_be_prepared_is_attacked_as_it_is(model: nn.Module) -> None:
    given = Given(settled(model))
    assert prepared(given, SHAPE) is given


def test_a_batch_norm_with_a_hook_keeps_it() -> None:
    given = Given(settled(Holds("hook")))
    ready, x = prepared(given, SHAPE), torch.rand(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(ready.logits(x), given.logits(x))
    assert kinds(ready, nn.BatchNorm2d) == 1


def test_in_half_precision_it_is_as_near_to_fp32_as_autocast_is() -> None:
    model, x = of_name("preact_small"), torch.rand(64, *SHAPE)
    ready = prepared(model, SHAPE)
    with torch.no_grad():
        exact = model.logits(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours, plain = ready.logits(x).float(), model.logits(x).float()
    assert 0 < (ours - exact).abs().mean() <= 3 * (plain - exact).abs().mean()
    assert ready.logits(x).dtype == torch.float32 and torch.equal(ready.logits(x), prepared(model, SHAPE).logits(x))


@pytest.mark.parametrize("attack", ["pgd20", "autoattack"])
def test_the_verdicts_are_those_of_an_attack_on_the_network_itself(
    evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    words = [f"attack={attack}", "data.limit=60"]
    words += ["attack.steps=6", "attack.targets=2", "attack.queries=20"] if attack == "autoattack" else []
    ours = evaluations.run(*words, name="prepared")
    monkeypatch.setattr(run_module, "prepared", lambda model, shape: model)
    theirs = evaluations.run(*words, name="itself")
    assert all(np.array_equal(ours[column], theirs[column]) for column in ours)


def test_a_copy_that_is_always_wrong_fells_no_image(evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Classify):
        def __init__(self, model: Classify) -> None:
            nn.Module.__init__(self)
            self.encoder, self.top = model.encoder, model.top

        def logits(self, x: Tensor) -> Tensor:
            return super().logits(x).roll(1, 1)

    monkeypatch.setattr(run_module, "prepared", lambda model, shape: Wrong(model))
    found = evaluations.run("attack=pgd3", "attack.keep=any", "attack.eps=1e-6")
    assert np.array_equal(found["adversarial_prediction"], found["clean_prediction"])

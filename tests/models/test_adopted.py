"""Networks of timm and torchvision: what they compute, how they are split, and what is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.config.objectives import OBJECTIVES
from dist_advss.config.schema import Data, Model, TrainConfig
from dist_advss.errors import UserError
from dist_advss.models import Backbone, build
from dist_advss.objectives import build as build_objective
from dist_advss.rng import Rng

SIZE, CLASSES = 32, 7
NETS = {
    "timm:test_vit": ({"patch": 8}, functools.partial(timm.create_model, "test_vit", img_size=SIZE, patch_size=8)),
    "timm:test_convnext": ({}, functools.partial(timm.create_model, "test_convnext")),
    "timm:test_efficientnet": ({}, functools.partial(timm.create_model, "test_efficientnet")),
    "torchvision:resnet18": ({}, torchvision.models.resnet18),
    "torchvision:mobilenet_v3_small": ({}, torchvision.models.mobilenet_v3_small),
}


def make(name: str, channels: int = 3, **model: Any) -> Backbone:
    torch.manual_seed(0)
    return build(
        Model(name=name, **NETS[name][0], **model), Data(name="any", size=SIZE, channels=channels, classes=CLASSES)
    )


@pytest.mark.parametrize("name", NETS)
def test_computes_what_the_package_computes_on_the_normalised_image(name: str) -> None:
    backbone = make(name, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    top = backbone.top(CLASSES)
    theirs: nn.Module = NETS[name][1](num_classes=CLASSES)
    # The one layer that theta_p lacks has the package's own name: it is what the others do not fill.
    state = {
        k.removeprefix("net.net."): v for k, v in backbone.encoder.state_dict().items() if k.startswith("net.net.")
    }
    left = [key for key in theirs.state_dict() if key not in state]
    assert [key.rpartition(".")[2] for key in left] == ["weight", "bias"]
    theirs.load_state_dict(state | dict(zip(left, top.state_dict().values(), strict=True)))
    x = torch.rand(3, 3, SIZE, SIZE)
    theirs.eval(), backbone.encoder.eval(), top.eval()
    with torch.no_grad():
        wanted = theirs(
            (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.4, 0.5, 0.6])[:, None, None]
        )
        torch.testing.assert_close(top(backbone.encoder(x)), wanted)


@pytest.mark.parametrize("name", NETS)
def test_theta_p_is_all_but_a_linear_layer_for_any_channels_and_outputs(name: str) -> None:
    for channels in (1, 3):
        backbone = make(name, channels)
        features = backbone.encoder(torch.rand(2, channels, SIZE, SIZE))
        assert features.shape == (2, backbone.encoder.out_channels, 1, 1)
        for outputs in (4, CLASSES):
            top = backbone.top(outputs)
            assert list(top.state_dict()) == ["linear.weight", "linear.bias"]
            assert top(features).shape == (2, outputs)


def test_training_mode_draws_nothing() -> None:
    """torchvision's network has dropout before its last linear layer but one, and 20% of it."""
    encoder = make("torchvision:mobilenet_v3_small").encoder.train()
    x = torch.rand(4, 3, SIZE, SIZE)
    assert any(isinstance(m, nn.Dropout) for m in encoder.modules())
    assert torch.equal(encoder(x), encoder(x))


def test_normalisation_is_that_of_the_name() -> None:
    def mean_of(name: str, **keys: Any) -> list[float]:
        model, data = Model(name=name, **keys), Data(name="any", size=SIZE)
        return [round(v, 4) for v in build(model, data).encoder.get_submodule("normalise").mean.flatten().tolist()]

    assert mean_of("timm:vit_tiny_patch16_224") == [0.5, 0.5, 0.5]  # as timm lists it
    assert mean_of("timm:resnet18") == mean_of("torchvision:resnet18") == [0.485, 0.456, 0.406]
    assert mean_of("timm:vit_tiny_patch16_224", mean=[0.1, 0.2, 0.3]) == [0.1, 0.2, 0.3]


def test_weights_are_a_function_of_the_seed() -> None:
    first, second = make("timm:test_vit").encoder.state_dict(), make("timm:test_vit").encoder.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("objective", "model"),
    [
        ("rotation", "timm:test_vit"),
        ("jigsaw", "timm:test_vit"),
        ("selfie", "timm:test_efficientnet"),
        ("selfie", "timm:test_vit"),
        ("joint", "timm:test_vit"),  # differentiates the attack's gradient again, through attention
        ("trades", "timm:test_convnext"),
    ],
)
def test_every_objective_gives_gradients_to_image_and_weights(objective: str, model: str) -> None:
    small: dict[str, Any] = {"selfie": {"layers": 1, "heads": 4, "ffn": 16}, "joint": {"tasks": ["rotation", "jigsaw"]}}
    config = TrainConfig(
        out="unused",
        data=Data(name="any", size=SIZE if objective != "jigsaw" else 24, classes=CLASSES),
        model=Model(name=model, **NETS[model][0]),
        objective=OBJECTIVES[objective](**small.get(objective, {})),
        attack=Attack(eps=0.06, steps=2),
    )
    if objective in ("jigsaw", "joint"):
        config.data.size = 24
    net = build_objective(config).train()
    images = torch.rand(4, 3, config.data.size, config.data.size)
    task = net.prepare(images, torch.arange(4), Rng(0).at(0, 0).rows(torch.arange(4)))
    pieces = task.inputs if isinstance(task.inputs, tuple) else (task.inputs,)
    moved = tuple((x + 0.01 * torch.rand_like(x)).requires_grad_() for x in pieces)
    given: Any = moved if isinstance(task.inputs, tuple) else moved[0]
    gradients = torch.autograd.grad(net.attack_loss(given, task).sum(), moved)
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
    outcome = net(task, tuple(x.detach() for x in moved) if isinstance(given, tuple) else given.detach())
    outcome.loss.backward()
    found: list[Tensor | None] = [p.grad for p in net.encoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=timm:convnext_attoo", "did you mean timm:convnext_atto"),
        ("model=torchvision:resnet19", "torchvision has no such network; did you mean torchvision:resnet18"),
        ("model=timm:", "timm has no such network"),
        ("model=timm:vit_tiny_patch16_224.nope", "did you mean timm:vit_tiny_patch16_224.augreg_in21k"),
        ("model=torchvision:squeezenet1_0", "its last layer is not one linear layer"),
        ("model=timm:deit_tiny_distilled_patch16_224", "its last layer is not one linear layer"),
        ("model=timm:vit_tiny_patch16_224", "its patches of 16 pixels do not divide data.size=28; set model.patch"),
        (
            "model=timm:vit_tiny_patch16_224 model.patch=7 objective=selfie",
            "does not take Selfie's patches of 7 pixels",
        ),
        ("model=timm:convnext_atto", "does not take data.size=28"),
        ("model=timm:resnet18 model.patch=4", "model.patch=4: model=timm:resnet18 has no such setting"),
        ("model=torchvision:resnet18 model.patch=4", "only model=timm:NAME has patches"),
        ("model=preact_small model.patch=4", "only model=timm:NAME has patches"),
        ("model=timm:resnet18 model.width=8", "has the width of its name"),
        ("model=timm:test_efficientnet train.sync_bn=true", "train.sync_bn=true"),
        ("model.name=nothing", "model.name=nothing: not accepted"),
    ],
)
def test_what_does_not_fit_is_one_line(words: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        compose("pretrain", [*words.split(), "out=RUN"])
    assert said in str(refused.value) and "\n" not in str(refused.value)

"""What holds for every backbone: sizes, channels, normalisation inside, cost, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dist_advss.config.backbones import BACKBONES
from dist_advss.config.schema import Data, Model
from dist_advss.errors import UserError
from dist_advss.models import Backbone, build
from dist_advss.models.backbone import Normalise, count_parameters
from tests.flops import flops_per_image

SMALL_IMAGES = [name for name in BACKBONES if not name.startswith("tv_")]


def make(name: str, channels: int = 3, **model: Any) -> Backbone:
    torch.manual_seed(0)
    return build(Model(name=name, **model), Data(name="any", channels=channels))


def whole(backbone: Backbone, outputs: int = 10) -> nn.Sequential:
    return nn.Sequential(backbone.encoder, backbone.top(outputs))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 96])
@pytest.mark.parametrize("name", ["preact_small", "preact_resnet18"])
def test_takes_images_of_28_to_96_pixels_and_any_channels(name: str, size: int, channels: int) -> None:
    net = whole(make(name, channels), 4)
    with torch.no_grad():
        assert net(torch.rand(2, channels, size, size)).shape == (2, 4)


@pytest.mark.parametrize("name", SMALL_IMAGES)
def test_large_nets_take_images_of_28_to_96_pixels_and_any_channels(name: str) -> None:
    for channels in (1, 3):
        net = whole(make(name, channels), 4).to("meta")  # shapes without arithmetic
        for size in (28, 64, 96):
            assert net(torch.empty(2, channels, size, size, device="meta")).shape == (2, 4)


@pytest.mark.parametrize("name", BACKBONES)
def test_out_channels_is_what_the_encoder_gives_and_the_top_takes(name: str) -> None:
    backbone = make(name)
    features = backbone.encoder.to("meta")(torch.empty(2, 3, 64, 64, device="meta"))
    assert features.shape[1] == backbone.encoder.out_channels
    assert backbone.top(7).to("meta")(features).shape == (2, 7)


@pytest.mark.parametrize("name", ["tv_resnet18", "tv_resnet50"])
def test_torchvision_net_computes_what_torchvision_computes(name: str) -> None:
    from torchvision import models

    backbone = make(name)
    top = backbone.top(5)
    theirs = getattr(models, name.removeprefix("tv_"))(weights=None, num_classes=5)
    parts = {**backbone.encoder.state_dict(), **top.state_dict()}
    theirs.load_state_dict({k.replace("linear", "fc"): v for k, v in parts.items() if not k.startswith("normalise")})
    x = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs.eval(), backbone.encoder.eval(), top.eval()
    with torch.no_grad():
        wanted = theirs((x - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(top(backbone.encoder(x)), wanted)


def test_torchvision_net_takes_one_channel() -> None:
    with torch.no_grad():
        assert whole(make("tv_resnet18", 1))(torch.rand(2, 1, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize("patch", [4, 7, 8])
def test_encoder_takes_the_patches_of_selfie(patch: int) -> None:
    encoder = make("preact_small", 1).encoder
    assert encoder(torch.rand(8, 1, patch, patch)).shape[:2] == (8, encoder.out_channels)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # convolutions + batch norms + linear; He et al. and Zagoruyko and Komodakis (36.5M)
        ("preact_resnet18", 11_172_170),
        ("preact_resnet18_raw", 11_172_170),
        ("preact_resnet34", 21_280_330),
        ("resnet18", 11_173_962),
        ("wrn28_10", 36_479_194),
        ("wrn34_10", 46_160_474),
        ("dm_wrn28_10", 36_479_194),
        ("tv_resnet18", 11_181_642),
        ("tv_resnet50", 23_528_522),
    ],
)
def test_parameter_counts_are_those_of_the_papers(name: str, parameters: int) -> None:
    assert count_parameters(whole(make(name))) == parameters


def test_small_net_costs_about_20_mflops() -> None:
    net = whole(make("preact_small", 1))
    macs = 28 * 28 * 9 * 16  # stem
    pixels, inputs = 28 * 28, 16
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        pixels = {1: 784, 2: {784: 196, 196: 49, 49: 16}.get(pixels, 0)}[stride]
        macs += pixels * 9 * width * (inputs + width) + (pixels * inputs * width if stride == 2 else 0)
        inputs = width
    macs += 128 * 10
    assert flops_per_image(net, (1, 28, 28)) == 2 * macs
    assert 15e6 < 2 * macs < 30e6


def test_counting_flops_leaves_the_module_as_it_was() -> None:
    net = whole(make("preact_small", 1)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flops_per_image(net, (1, 28, 28))
    assert net.training and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_model_width_scales_the_small_net() -> None:
    assert make("preact_small").encoder.out_channels == 64
    assert make("preact_small", width=8).encoder.out_channels == 32


def test_tops_are_new_and_independent_at_every_call() -> None:
    backbone = make("preact_small")
    first, second = backbone.top(4), backbone.top(4)
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert not torch.equal(first.state_dict()["linear.weight"], second.state_dict()["linear.weight"])


def test_same_seed_gives_the_same_weights() -> None:
    first, second = make("preact_small").encoder.state_dict(), make("preact_small").encoder.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("channels", "mean", "std", "wanted_mean", "wanted_std"),
    [
        (3, None, None, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (1, None, None, [0.449], [0.226]),
        (1, [0.2], [0.4], [0.2], [0.4]),
        (3, [0.1, 0.2, 0.3], None, [0.1, 0.2, 0.3], [0.229, 0.224, 0.225]),
    ],
)
def test_normalisation_stands_first_and_defaults_to_imagenet(
    channels: int, mean: list[float] | None, std: list[float] | None, wanted_mean: list[float], wanted_std: list[float]
) -> None:
    first = next(make("preact_small", channels, mean=mean, std=std).encoder.children())
    assert isinstance(first, Normalise)
    x = torch.rand(2, channels, 5, 5)
    for c in range(channels):
        torch.testing.assert_close(first(x)[:, c], (x[:, c] - wanted_mean[c]) / wanted_std[c])


def test_normalisation_stays_in_fp32_under_autocast() -> None:
    normalise = Normalise([0.4], [0.2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert normalise(torch.rand(2, 1, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"mean": [0.5]}, "model.mean=[0.5]: one value per channel, and data.channels=3"),
        ({"std": [0.1, 0.0, 0.1]}, "model.std=[0.1, 0.0, 0.1]: every value must be above 0"),
    ],
)
def test_normalisation_that_does_not_fit_is_one_line(model: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as error:
        make("preact_small", **model)
    assert str(error.value) == text


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^model=resnet50v3: no such backbone; did you mean 'resnet50v2'\?"):
        make("resnet50v3")


@pytest.mark.parametrize("name", ["preact_small", "resnet50v2", "tv_resnet18"])
def test_gradients_reach_the_input_image_and_can_be_differentiated_again(name: str) -> None:
    net = whole(make(name), 4)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    original = x.detach().clone()
    (gradient,) = torch.autograd.grad(net(x).logsumexp(1).sum(), x, create_graph=True)
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    gradient.square().sum().backward()
    weights = [p.grad for n, p in net.named_parameters() if n.endswith("conv1.weight")]
    assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in weights)
    assert torch.equal(x.detach(), original)


@pytest.mark.parametrize("name", ["preact_small", "resnet50v2", "tv_resnet18"])
def test_channels_last_goes_through_every_convolution(name: str) -> None:
    net = whole(make(name), 4).to(memory_format=torch.channels_last)
    layouts = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, args, out: layouts.append(
                    all(t.is_contiguous(memory_format=torch.channels_last) for t in (args[0], out))
                )
            )
    with torch.no_grad():
        net(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert len(layouts) > 10 and all(layouts)


def test_hooks_that_replace_the_output_of_any_module_do_no_harm() -> None:
    """Distributed engines wrap module outputs in autograd functions, which in-place operations would break."""
    net = whole(make("resnet50v2"), 4)
    for module in net.modules():
        module.register_full_backward_hook(lambda *_: None)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0

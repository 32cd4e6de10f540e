"""ResNet-50v2 against the description of the published network, computed here with functions only."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_advss.config.schema import Data, Model
from dist_advss.models import Backbone, build

State = dict[str, Tensor]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build(Model(name="resnet50v2"), Data(name="cifar10"))


@pytest.fixture(scope="module")
def net(backbone: Backbone) -> nn.ModuleDict:
    """The whole net with every weight, bias and running statistic away from its initial value."""
    torch.manual_seed(1)
    net = nn.ModuleDict({"encoder": backbone.encoder, "top": backbone.top(10)})
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def published(state: State) -> State:
    """Our state dict under the published names, by the documented prefixes."""
    renamed = {}
    for name, tensor in state.items():
        prefix, rest = name.split(".", 1)
        part = rest.split(".")[0]
        if part == "normalise":
            continue
        assert part in {"encoder": ("conv1", "bn1", "layer1", "layer2", "layer3"), "top": ("layer4", "linear")}[prefix]
        renamed[rest] = tensor
    return renamed


def reference(state: State, x: Tensor, training: bool) -> Tensor:
    """Logits (N, 10) of the published network from its own state dict."""

    def norm(name: str, z: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"].view(-1, 1, 1), state[f"{name}.bias"].view(-1, 1, 1)
        if training:
            mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, unbiased=False)
        else:
            mean, var = (state[f"{name}.running_{key}"].view(-1, 1, 1) for key in ("mean", "var"))
        return (z - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def block(name: str, z: Tensor, stride: int) -> Tensor:
        pre = norm(f"{name}.bn0", z).clamp(min=0)
        out = norm(f"{name}.bn1", F.conv2d(pre, state[f"{name}.conv1.weight"])).clamp(min=0)
        out = norm(f"{name}.bn2", F.conv2d(out, state[f"{name}.conv2.weight"], stride=stride, padding=1)).clamp(min=0)
        out = F.conv2d(out, state[f"{name}.conv3.weight"])
        if stride == 1 and out.shape[1] == z.shape[1]:
            return out + z
        return out + norm(f"{name}.shortcut.1", F.conv2d(pre, state[f"{name}.shortcut.0.weight"], stride=stride))

    z = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    z = norm("bn1", F.conv2d(z, state["conv1.weight"], padding=1)).clamp(min=0)
    for layer, blocks, stride in ((1, 3, 1), (2, 4, 2), (3, 6, 2), (4, 3, 2)):
        for i in range(blocks):
            z = block(f"layer{layer}.{i}", z, stride if i == 0 else 1)
    return z.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("training", [False, True])
def test_logits_follow_the_published_description(net: nn.ModuleDict, training: bool) -> None:
    torch.manual_seed(2)
    x = torch.rand(2, 3, 32, 32)
    state = {name: tensor.clone() for name, tensor in published(net.state_dict()).items()}
    net.train(training)
    with torch.no_grad():
        logits = net["top"](net["encoder"](x))
        wanted = reference(state, x, training)
    assert wanted.std() > 0.05
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_encoder_gives_1024_channels_at_a_quarter_of_the_size(backbone: Backbone) -> None:
    assert backbone.encoder.out_channels == 1024
    with torch.no_grad():
        assert backbone.encoder.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 1024, 8, 8)


def test_parameter_count_follows_from_the_layout(net: nn.ModuleDict) -> None:
    count, channels = 3 * 64 * 9 + 2 * 64, 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            convolutions = channels * width + 9 * width * width + width * 4 * width
            norms = 2 * (channels + width + width)
            first = i == 0 and (stride != 1 or channels != 4 * width)
            count += convolutions + norms + (channels * 4 * width + 2 * 4 * width if first else 0)
            channels = 4 * width
    count += 2048 * 10 + 10
    assert sum(p.numel() for p in net.parameters()) == count == 23_516_874

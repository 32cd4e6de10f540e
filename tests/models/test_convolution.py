"""No width crashes on a processor without AVX-512: torch's 1x1 convolutions with a stride are replaced where they would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dist_advss.config.backbones import BACKBONES
from dist_advss.config.schema import Data, Model
from dist_advss.models import build
from dist_advss.models.convolution import SelectingConv2d, is_unsound, replace_unsound, sound

# glibc checks the heap at every free, so that what would crash later is found at once
MALLOC_CHECKER = next((str(path) for path in Path("/lib").glob("*-linux-gnu*/libc_malloc_debug.so.0")), None)
WITHOUT_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

TRAIN_BACKBONES = """
import itertools
import torch
from dist_advss.attacks import build as build_attack
from dist_advss.config.compose import compose
from dist_advss import engines, objectives
from dist_advss.engines.world import World
from dist_advss.rng import Rng

torch.set_num_threads(1)
models = {models}
for model, channels in itertools.product(models, (1, 3)):
    size = 64 if model[0].startswith("model=tv_") else 28
    count = 16 if model[0] == "model=preact_small" else 2
    words = [*model, "objective=rotation", "attack=fgsm", "attack.eps=0.1", "data=folder", "data.root=.", "out=OUT"]
    words += [f"data.size={{size}}", f"data.channels={{channels}}", "device=cpu"]
    config = compose("pretrain", words)
    objective = objectives.build(config)
    engine = engines.build(config, objective, World(torch.device("cpu")))
    rng = Rng(0).at(0, 0).rows(torch.arange(count))
    images = rng.uniform("images", (channels, size, size)).contiguous(memory_format=torch.channels_last)
    for _ in range(10 if count == 16 else 1):
        task = objective.prepare(images, torch.zeros(count, dtype=torch.int64), rng)
        x_adv = build_attack(config.attack, engine.module)(objective.attack_loss, task)
        engine.step(engine(task, x_adv).loss)
    print(*model, channels, flush=True)
print("all trained")
"""

TRAIN_A_LAYER = """
import torch
from torch import nn
from dist_advss.models.convolution import replace_unsound

net = nn.Sequential(nn.Conv2d({channels}, 8, 1, 2, bias=False)).to(memory_format=torch.channels_last)
replace_unsound(net)
images = torch.rand(16, {channels}, 28, 28).contiguous(memory_format=torch.channels_last)
for _ in range(60):
    net(images.clone().requires_grad_()).sum().backward()
print("all trained")
"""


def run_without_avx512(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **WITHOUT_AVX512}
    if MALLOC_CHECKER:
        environment |= {"LD_PRELOAD": MALLOC_CHECKER, "MALLOC_CHECK_": "3"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


SMALL = [["model=preact_small", f"model.width={width}"] for width in (4, 5, 6, 7)]
ALIKE = ("preact_resnet18_raw", "dm_wrn28_10")  # they have the convolutions of preact_resnet18 and wrn28_10
LARGE = [[f"model={name}"] for name in BACKBONES if name not in ("preact_small", *ALIKE)]


@pytest.mark.slow
@pytest.mark.parametrize("models", [SMALL, *([model] for model in LARGE)], ids=lambda models: models[0][0])
def test_every_backbone_trains_a_step_at_its_smallest_width(models: list[list[str]]) -> None:
    done = run_without_avx512(TRAIN_BACKBONES.format(models=models))
    assert done.returncode == 0 and "all trained" in done.stdout, done.stdout[-300:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 3, 5, 7])
def test_a_layer_of_a_plug_in_trains_once_it_is_replaced(channels: int) -> None:
    done = run_without_avx512(TRAIN_A_LAYER.format(channels=channels))
    assert done.returncode == 0 and "all trained" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("groups", [1, 2])
def test_selecting_pixels_computes_what_torch_computes(stride: int, size: int, groups: int) -> None:
    torch.manual_seed(0)
    theirs = nn.Conv2d(6, 4, 1, stride, groups=groups).double()
    ours = sound(theirs)
    assert isinstance(ours, SelectingConv2d) and ours.weight is theirs.weight and ours.bias is theirs.bias
    x = torch.rand(3, 6, size, size, dtype=torch.float64, requires_grad=True)
    expected, found = theirs(x), ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # first and second derivatives, which pre-training on several tasks needs
    for y in (expected, found):
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        if y is expected:
            kept = first.detach(), second
        else:
            torch.testing.assert_close((first.detach(), second), kept, rtol=1e-10, atol=1e-10)


def test_only_what_is_unsound_is_replaced() -> None:
    for layer in (nn.Conv2d(8, 4, 1, 2), nn.Conv2d(1, 4, 1, 2), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1)):
        assert not is_unsound(layer) and sound(layer) is layer
    assert is_unsound(nn.Conv2d(4, 8, 1, 2)) and is_unsound(nn.Conv2d(16, 8, 1, 2, groups=4))
    assert is_unsound(nn.Conv2d(4, 8, 1, 2, padding="valid"))
    assert is_unsound(type("Inherits", (nn.Conv2d,), {})(4, 8, 1, 2))
    assert not is_unsound(SelectingConv2d(4, 8, 1, 2))
    assert not is_unsound(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 1, 2)))
    net = nn.Sequential(nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.ReLU()), nn.Conv2d(8, 8, 1, 2))
    names = list(net.state_dict())
    replace_unsound(net)
    assert isinstance(net.get_submodule("0.0"), SelectingConv2d) and type(net.get_submodule("1")) is nn.Conv2d
    assert list(net.state_dict()) == names


def test_a_narrow_network_starts_from_the_same_weights() -> None:
    """The replacement draws nothing: what is built after it is as if it had not been made."""
    torch.manual_seed(0)
    encoder = build(Model(name="preact_small", width=4), Data(name="any", channels=1)).encoder
    after = torch.rand(1)
    torch.manual_seed(0)
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            drawn = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0], bias=False)
            torch.testing.assert_close(layer.weight, drawn.weight, rtol=0, atol=0)
    assert torch.equal(after, torch.rand(1))

"""Published state dicts of networks that this package has: taken by name, and never into a network that computes something else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.config.objectives import Classify as ClassifyConfig
from dist_advss.config.schema import Data, Model
from dist_advss.errors import UserError
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.exchange.library import receive_file
from dist_advss.models import Backbone, build
from dist_advss.models.backbone import Normalise
from dist_advss.models.dm_wideresnet import swish_wide_resnet
from dist_advss.models.plain import as_ours, misfit, unwrapped
from dist_advss.models.preact import preact_resnet
from dist_advss.models.resnet import resnet
from dist_advss.models.wideresnet import wide_resnet
from dist_advss.objectives import Classify

MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)


def conv(i: int, o: int, size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(i, o, size, stride, padding, bias=False)


class TradesBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3, stride, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), conv(o, o, 3, 1, 1)
        self.convShortcut = None if i == o else conv(i, o, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        pre = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(pre))))
        return out + (x if self.convShortcut is None else self.convShortcut(pre))


class Group(nn.Module):
    """Blocks behind one name."""

    def __init__(self, name: str, *blocks: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


class Trades(nn.Module):
    """A wide ResNet of depth 16 with widths 4, 8, 16 and 32, and the group that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 16, 3, 1, 1)
        for n, (i, o, stride) in enumerate(((16, 32, 1), (32, 64, 2), (64, 128, 2)), 1):
            self.add_module(f"block{n}", Group("layer", TradesBlock(i, o, stride), TradesBlock(o, o, 1)))
        self.sub_block1 = Group("layer", TradesBlock(16, 32, 1), TradesBlock(32, 32, 1))
        self.bn1, self.fc = nn.BatchNorm2d(128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class SwishBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.batchnorm_0, self.conv_0 = nn.BatchNorm2d(i), conv(i, o, 3, stride)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(o), conv(o, o, 3, 1, 1)
        if i != o:
            self.shortcut = conv(i, o, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        z = self.batchnorm_0(x)
        pre = z * z.sigmoid()
        z = self.batchnorm_1(self.conv_0(F.pad(pre, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))))
        out = self.conv_1(z * z.sigmoid())
        return out + (self.shortcut(pre) if hasattr(self, "shortcut") else x)


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.init_conv = conv(3, 16, 3, 1, 1)
        groups = ((16, 32, 1), (32, 64, 2), (64, 128, 2))
        self.layer = nn.Sequential(*(Group("block", SwishBlock(i, o, s), SwishBlock(o, o, 1)) for i, o, s in groups))
        self.batchnorm, self.logits = nn.BatchNorm2d(128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        z = self.batchnorm(self.layer(self.init_conv(x)))
        return self.logits((z * z.sigmoid()).mean((2, 3)))


class PreactBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int, raw: bool) -> None:
        super().__init__()
        self.raw = raw
        self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3, stride, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), conv(o, o, 3, 1, 1)
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(conv(i, o, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        pre = F.relu(self.bn1(x))
        added = self.shortcut(x if self.raw else pre) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(pre)))) + added


class Preact(nn.Module):
    def __init__(self, raw: bool, width: int = 4) -> None:
        super().__init__()
        self.conv1, widths = conv(3, width, 3, 1, 1), [width, width, 2 * width, 4 * width, 8 * width]
        for n, (i, o) in enumerate(itertools.pairwise(widths), 1):
            first = PreactBlock(i, o, 1 if n == 1 else 2, raw)
            self.add_module(f"layer{n}", nn.Sequential(first, PreactBlock(o, o, 1, raw)))
        self.bn, self.linear = nn.BatchNorm2d(8 * width), nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


class PlainBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, 3, stride, 1), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o, 3, 1, 1), nn.BatchNorm2d(o)
        self.name = shortcut
        if stride != 1 or i != o:
            self.add_module(shortcut, nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)))

    def forward(self, x: Tensor) -> Tensor:
        added = getattr(self, self.name)(x) if hasattr(self, self.name) else x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + added)


class Plain(nn.Module):
    def __init__(self, shortcut: str, last: str) -> None:
        super().__init__()
        self.conv1, self.bn1, self.last = conv(3, 64, 3, 1, 1), nn.BatchNorm2d(64), last
        for n, (i, o) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            blocks = PlainBlock(i, o, 1 if n == 1 else 2, shortcut), PlainBlock(o, o, 1, shortcut)
            self.add_module(f"layer{n}", nn.Sequential(*blocks))
        self.add_module(last, nn.Linear(512, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))))
        return getattr(self, self.last)(x.mean((2, 3)))


def trained(net: nn.Module) -> nn.Module:
    """With statistics and scales that are not the initial ones."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for _ in range(5):
            net.train()(torch.randn(8, 3, 32, 32))
    return net.eval()


SMALL: dict[str, tuple[Callable[[], nn.Module], Callable[[Normalise], Backbone]]] = {
    "trades": (Trades, lambda n: wide_resnet(n, 3, 16, 2)),
    "swish": (Swish, lambda n: swish_wide_resnet(n, 3, 16, 2)),
    "preact": (lambda: Preact(raw=False), lambda n: preact_resnet(n, 3, (2, 2, 2, 2), 4)),
    "raw": (lambda: Preact(raw=True), lambda n: preact_resnet(n, 3, (2, 2, 2, 2), 4, raw_shortcut=True)),
    "plain": (lambda: Plain("shortcut", "linear"), lambda n: resnet(n, 3, (2, 2, 2, 2))),
    "downsample": (lambda: Plain("downsample", "fc"), lambda n: resnet(n, 3, (2, 2, 2, 2))),
}


def classifier(make: Callable[[Normalise], Backbone]) -> Classify:
    return Classify(ClassifyConfig(), make(Normalise(MEAN, STD)), 10)


@pytest.mark.parametrize("name", SMALL)
def test_each_layout_becomes_the_network_that_it_was(name: str) -> None:
    make, ours = SMALL[name]
    net, model = trained(make()), classifier(ours)
    state = as_ours(model, net.state_dict())
    assert misfit(model.state_dict(), state) is None
    model.load_state_dict(state)
    x, mean, std = torch.rand(3, 3, 32, 32).double(), *(torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        expected = net.double()((x - mean.double()) / std.double())
        torch.testing.assert_close(model.double().eval().logits(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("into", SMALL)
@pytest.mark.parametrize("name", SMALL)
def test_no_layout_fits_a_network_that_computes_something_else(name: str, into: str) -> None:
    state, model = SMALL[name][0]().state_dict(), classifier(SMALL[into][1])
    alike = (
        {"preact", "raw"},
        {"plain", "downsample"},
    )  # the first two have the same names: only a card tells them apart
    fits = misfit(model.state_dict(), as_ours(model, state)) is None
    assert fits == (name == into or {name, into} in alike)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "ema_model_state_dict", "net", None])
@pytest.mark.parametrize(
    ("prefix", "names", "shape"),
    [
        ("module.", ("module.mu", "module.sigma"), (1, 3, 1, 1)),
        ("model.", ("normalize.mean", "normalize.std"), (3, 1, 1)),
        ("module.model.", ("module.normalize.mean", "module.normalize.std"), (3,)),
        ("", ("mean", "std"), (1, 3, 1, 1)),
    ],
)
def test_wrappings_are_taken_off_and_a_normalisation_inside_counts(
    key: str | None, prefix: str, names: tuple[str, str], shape: tuple[int, ...]
) -> None:
    make, ours = SMALL["preact"]
    state = {f"{prefix}{name}": tensor for name, tensor in make().state_dict().items()}
    state |= {name: torch.tensor(v).view(shape) for name, v in zip(names, ((0.5,) * 3, (0.25,) * 3), strict=True)}
    model = classifier(ours)
    found = as_ours(model, unwrapped(state if key is None else {key: state, "epoch": 3}))
    assert misfit(model.state_dict(), found) is None
    assert found["encoder.normalise.mean"].flatten().tolist() == [0.5] * 3
    assert found["encoder.normalise.std"].flatten().tolist() == [0.25] * 3


def test_averaged_weights_count_where_a_file_has_both() -> None:
    first, second = (trained(SMALL["preact"][0]()).state_dict() for _ in range(2))
    found = unwrapped({"model_state_dict": first, "ema_model_state_dict": second})
    assert all(found[name] is tensor for name, tensor in second.items())


WORDS = ["data=cifar10", "data.root=/images"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """The pre-activation ResNet-18 of fast adversarial training, with its normalisation beside it, in a file."""
    net = trained(Preact(raw=True, width=64))
    state = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
    state |= {"mu": torch.tensor(MEAN).view(1, 3, 1, 1), "sigma": torch.tensor(STD).view(1, 3, 1, 1)}
    file = tmp_path_factory.mktemp("published") / "net.pt"
    torch.save({"state_dict": state}, file)
    return file, net


def write_card(file: Path, net: nn.Module) -> Path:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    normalised = (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    with torch.no_grad():
        file.write_text(json.dumps({"images": images.tolist(), "outputs": net(normalised).tolist()}))
    return file


def test_a_card_tells_networks_with_the_same_names_apart(published: Any, tmp_path: Path, capsys: Any) -> None:
    file, net = published
    card = write_card(tmp_path / "card.json", net)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"model=preact_resnet18 builds here: the shortcuts of its blocks begin before"):
        receive_file(file, run, ["model=preact_resnet18", *WORDS], card)
    assert not run.exists()
    assert main(["import", str(file), str(run), "model=preact_resnet18_raw", *WORDS, "--card", str(card)]) == 0
    assert "its logits are those of" in capsys.readouterr().out
    config = configure("evaluate", [f"checkpoint={run}", "attack=pgd20", "out=RUN"])
    assert config.model.mean == pytest.approx(MEAN) and config.model.name == "preact_resnet18_raw"
    load_classifier(config, [])


def test_without_a_card_there_is_nothing_to_compare_with(published: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no library builds model=preact_resnet18, so .* add --card FILE"):
        receive_file(published[0], tmp_path / "run", ["model=preact_resnet18", *WORDS])
    assert not (tmp_path / "run").exists()


def test_a_normalisation_that_nobody_states_and_one_that_contradicts_the_file_are_refused(
    published: Any, tmp_path: Path
) -> None:
    file, net = published
    torch.save(net.state_dict(), tmp_path / "bare.pt")
    words = ["model=preact_resnet18_raw", *WORDS, "attack=pgd20", "out=RUN"]
    with pytest.raises(UserError, match=r"^model\.mean: missing; checkpoint=.*bare\.pt does not say how"):
        load_classifier(configure("evaluate", [*words, f"checkpoint={tmp_path / 'bare.pt'}"]), [])
    given = ["model.mean=[0,0,0]", "model.std=[1,1,1]"]
    with pytest.raises(UserError, match=r"another normalisation; set model\.mean=\[0\.2,0\.4,0\.6\]"):
        load_classifier(configure("evaluate", [*words, *given, f"checkpoint={file}"]), [])
    model, _ = load_classifier(configure("evaluate", [*words, *given, f"checkpoint={tmp_path / 'bare.pt'}"]), [])
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().logits(x), net(x), rtol=1e-4, atol=1e-4)


def test_patches_of_an_odd_size_pass_through_swish_blocks() -> None:
    net = build(Model(name="dm_wrn28_10"), Data(name="any", channels=3)).encoder.to("meta")
    assert net(torch.empty(2, 3, 7, 7, device="meta")).shape == (2, 320, 4, 4)

"""State dicts of other programs: in `evaluate` and `init`, in every wrapping, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.config.objectives import Classify as ClassifyConfig
from dist_advss.config.schema import Data, Model
from dist_advss.errors import UserError
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.models import build
from dist_advss.models.plain import as_ours, misfit, unwrapped
from dist_advss.models.transfer import load_encoder
from dist_advss.objectives import Classify

WORDS = ["model=torchvision:resnet18", "data=fashion_mini", "out=RUN"]


def theirs(classes: int = 10) -> nn.Module:
    """torchvision's ResNet-18 for one channel, with batch-norm statistics that are not the initial ones."""
    torch.manual_seed(1)
    net: nn.Module = torchvision.models.resnet18(weights=None, num_classes=classes)
    net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    net.train()(torch.rand(4, 1, 28, 28))
    return net.eval()


def saved(folder: Path, kind: str, state: dict[str, Tensor]) -> Path:
    file = folder / f"weights.{'safetensors' if kind == 'safetensors' else 'pt'}"
    wrapped: dict[str, Any] = {
        "plain": state,
        "ddp": {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}},
        "compiled": {"net": {f"module._orig_mod.{name}": t for name, t in state.items()}},
    }
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(wrapped[kind], file)
    return file


@pytest.mark.parametrize("kind", ["plain", "ddp", "compiled", "safetensors"])
def test_a_state_dict_is_evaluated_as_the_network_that_it_comes_from(kind: str, tmp_path: Path) -> None:
    net = theirs()
    file = saved(tmp_path, kind, net.state_dict())
    config = configure("evaluate", [*WORDS, f"checkpoint={file}", "model.mean=[0.3]", "model.std=[0.2]"])
    model, [source] = load_classifier(config, [])
    assert source.path == file.resolve() and source.classes is None
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().logits(x), net((x - 0.3) / 0.2))


def test_a_state_dict_starts_a_fine_tuning_without_its_last_layer() -> None:
    net = theirs(classes=1000)
    backbone = build(Model(name="torchvision:resnet18"), Data(name="any", channels=1))
    model = Classify(ClassifyConfig(), backbone, 10)
    taken = load_encoder(model, net.state_dict(), "FILE")
    assert taken.matched == taken.total
    assert torch.equal(
        model.encoder.state_dict()["net.net.layer4.1.conv2.weight"], net.state_dict()["layer4.1.conv2.weight"]
    )


def test_names_of_our_own_networks_need_no_prefix() -> None:
    model = Classify(ClassifyConfig(), build(Model(name="preact_small"), Data(name="any")), 10)
    ours = model.state_dict()
    plain = {name.partition(".")[2]: t for name, t in ours.items() if "normalise" not in name}
    assert misfit(ours, as_ours(model, plain)) is None
    assert as_ours(model, ours) is ours


def test_names_of_the_library_that_begin_as_ours_do_are_the_librarys() -> None:
    """torchvision's ViT has an `encoder` too."""
    with torch.device("meta"):
        net = torchvision.models.vit_b_16(num_classes=10)
        backbone = build(Model(name="torchvision:vit_b_16"), Data(name="any", size=224, channels=3))
        model = Classify(ClassifyConfig(), backbone, 10)
    assert misfit(model.state_dict(), as_ours(model, net.state_dict())) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"extra.weight": torch.zeros(2)}, "1 unknown, such as extra.weight"),
        (
            lambda s: {n: t for n, t in s.items() if n != "conv1.weight"},
            "1 missing, such as encoder.net.net.conv1.weight",
        ),
        (lambda s: s | {"fc.bias": torch.zeros(7)}, "such as top.linear.bias, [7] in it and [10] here"),
        (lambda s: s | {"conv1.weight": torch.full((64, 1, 7, 7), torch.nan)}, "conv1.weight is not finite"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(change: Any, said: str, tmp_path: Path) -> None:
    file = saved(tmp_path, "plain", change(theirs().state_dict()))
    config = configure("evaluate", [*WORDS, f"checkpoint={file}"])
    with pytest.raises(UserError) as refused:
        load_classifier(config, [])
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_state_dict_needs_images_and_model(tmp_path: Path) -> None:
    file = saved(tmp_path, "safetensors", theirs().state_dict())
    with pytest.raises(UserError, match=r"no config\.yaml next to this checkpoint; add data=… model=…"):
        configure("evaluate", [f"checkpoint={file}", "out=RUN"])
    assert compose("evaluate", [*WORDS, f"checkpoint={file}"]).checkpoint == str(file)


def test_only_a_prefix_of_every_name_is_a_wrapper() -> None:
    tensor = torch.zeros(1)
    assert list(unwrapped({"model.a": tensor, "b": tensor})) == ["model.a", "b"]
    assert list(unwrapped({"model": {"module.model.a": tensor, "module.model.b": tensor}})) == ["a", "b"]
    assert unwrapped([1, 2]) == {}

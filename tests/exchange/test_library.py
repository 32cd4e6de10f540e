"""A published state dict of timm or torchvision is imported only if its network gives the logits of a card, or of the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dist_advss.cli import main
from dist_advss.config.compose import compose_data
from dist_advss.config.inherit import configure
from dist_advss.data import load_data
from dist_advss.errors import UserError
from dist_advss.evaluation.run import evaluate
from dist_advss.exchange.library import receive_file
from dist_advss.runs.methods import UNKNOWN, Method, method_of
from dist_advss.runs.read import read
from dist_advss.training.run import train

MEAN, STD = 0.3, 0.2
WORDS = ["model=timm:test_resnet", "data=fashion_mini", f"model.mean=[{MEAN}]", f"model.std=[{STD}]"]


@pytest.fixture
def theirs() -> Any:
    """timm's network, with batch-norm statistics that are not the initial ones."""
    torch.manual_seed(1)
    net = timm.create_model("test_resnet", pretrained=False, num_classes=10, in_chans=1)
    for _ in range(20):
        net.train()(torch.randn(16, 1, 28, 28))
    return net.eval()


@pytest.fixture
def file(theirs: nn.Module, tmp_path: Path) -> Path:
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@torch.no_grad()
def write_card(path: Path, network: Callable[[Tensor], Tensor], **more: Any) -> Path:
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    path.write_text(json.dumps({"images": images.tolist(), "outputs": network(images).tolist(), **more}))
    return path


def normalised(x: Tensor) -> Tensor:
    return (x - MEAN) / STD


def test_it_is_evaluated_as_the_librarys_network_and_starts_a_fine_tuning(
    file: Path, theirs: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["import", str(file), str(run), *WORDS]) == 0
    assert capsys.readouterr().out == f"import: {run}, its logits are those of timm\n"
    assert main(["verify", str(run)]) == 0
    launch = read(tmp_path, now=0.0)
    assert method_of(launch.runs["run"], launch) == Method(UNKNOWN, None, UNKNOWN, "classify"), (
        "nobody has said how it was trained"
    )

    words = [f"checkpoint={run}", "attack=fgsm", "data.limit=60", "device=cpu", f"out={tmp_path / 'judged'}"]
    images = load_data(compose_data(["data=fashion_mini"]), "test", labelled=True).first(60)
    with torch.no_grad():
        expected = theirs(normalised(images.images.permute(0, 3, 1, 2) / 255)).argmax(1).numpy()
    with np.load(evaluate(configure("evaluate", words)) / "verdicts.npz") as verdicts:
        assert np.array_equal(verdicts["clean_prediction"], expected)
        assert len(set(expected.tolist())) > 1

    words = ["data.limit=100", "train.batch_size=50", "schedule.epochs=1", "attack.steps=0", "validation.limit=20"]
    out = train(configure("finetune", [f"init={run}", *words, "device=cpu", f"out={tmp_path / 'tuned'}"]), "finetune")
    taken = json.loads((out / "result.json").read_text())["transferred"]
    assert taken["matched"] == taken["total"] > 10


def test_a_card_beside_it_counts_and_its_classes_are_those_of_the_run(
    file: Path, theirs: nn.Module, tmp_path: Path
) -> None:
    names = [f"class {k}" for k in range(10)]
    card = write_card(tmp_path / "net.json", lambda x: theirs(normalised(x)), classes=names)
    assert receive_file(file, tmp_path / "run", WORDS) == str(card)
    assert json.loads((tmp_path / "run" / "made_from.json").read_text())["data"]["classes"] == names
    with pytest.raises(UserError, match=r"was trained on the classes \[class 0, .* and these images have \[T-shirt"):
        words = [f"checkpoint={tmp_path / 'run'}", "attack=fgsm", "device=cpu", f"out={tmp_path / 'judged'}"]
        evaluate(configure("evaluate", words))


def unpadded(net: Any) -> Any:
    net.conv1[0].padding = (0, 0)
    return net


def strided(net: Any) -> Any:
    net.conv1[0].stride = (1, 1)
    return net


@pytest.mark.parametrize(
    ("change", "prepare", "said"),
    [
        (unpadded, normalised, "its stem pads with 0 pixels"),
        (strided, normalised, "its stem has stride"),
        (lambda net: net, lambda x: normalised(normalised(x)), "it normalises the images twice"),
        (lambda net: net, lambda x: x, "it does not normalise the images"),
        (lambda net: nn.Sequential(net, nn.Softmax(1)), normalised, r"it gives probabilities \(softmax\)"),
    ],
)
def test_a_network_that_its_card_does_not_know_is_refused_with_what_differs(
    change: Any, prepare: Any, said: str, file: Path, theirs: nn.Module, tmp_path: Path
) -> None:
    other = change(theirs)
    card = write_card(tmp_path / "card.json", lambda x: other(prepare(x)))
    with pytest.raises(UserError, match=rf"card.json is not the one that model=timm:test_resnet builds here: {said}"):
        receive_file(file, tmp_path / "run", WORDS, card)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "card", "said"),
    [
        (["data=fashion_mini"], None, r"its tensors do not fit model=preact_small with 10 classes"),
        (["model=ensemble", "model.members=[a,b]", "data=fashion_mini"], None, r"^model"),
        (WORDS[:3], None, r"^model\.mean: missing; timm lists a normalisation for colour images only"),
        ([*WORDS, "schedule.epochs=3"], None, r"^schedule\.epochs=3: import reads the words of data and model only"),
        (["model=timm:test_vit", "data=fashion_mini", "model.patch=7"], None, "its tensors do not fit .* missing"),
        (WORDS, '{"images": []}', r"card\.json: not a card for these images"),
        (WORDS, '{"images": [[[[2]]]], "outputs": [[1]]}', r"card\.json: not a card for these images"),
    ],
)
def test_a_users_mistakes_are_one_line_and_nothing_is_written(
    words: list[str], card: str | None, said: str, file: Path, tmp_path: Path
) -> None:
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    with pytest.raises(UserError, match=said) as refused:
        receive_file(file, tmp_path / "run", words, None if card is None else tmp_path / "card.json")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_network_that_the_library_itself_cannot_make_needs_a_card(tmp_path: Path) -> None:
    """torchvision has no networks for grey images. This package replaces the stem."""
    from torchvision.models import resnet18

    net = resnet18(weights=None, num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    words = ["model=torchvision:resnet18", *WORDS[1:]]
    with pytest.raises(UserError, match=r"torchvision itself cannot make resnet18 of it for 1 channels .* --card FILE"):
        receive_file(tmp_path / "net.pt", tmp_path / "run", words)
    write_card(tmp_path / "net.json", lambda x: net.eval()(normalised(x)))
    assert receive_file(tmp_path / "net.pt", tmp_path / "run", words).endswith("net.json")

"""Several networks as one: the log of averaged probabilities, and the published three-branch checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.config.compose import compose, restore
from dist_advss.config.inherit import configure
from dist_advss.config.objectives import Classify as ClassifyConfig
from dist_advss.config.schema import Data, Model
from dist_advss.errors import UserError
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.exchange.published import BRANCHES, CIFAR10, convert
from dist_advss.models import build
from dist_advss.models.ensemble import ensemble, load_member
from dist_advss.objectives import Classify
from dist_advss.training import checkpoint

from .test_resnet50v2 import MEAN, STD, State, reference

DATA = Data(name="fashion_mini", size=28, channels=1)


def small(width: int) -> Model:
    return Model(name="preact_small", width=width)


def together(*widths: int) -> Classify:
    return Classify(ClassifyConfig(), ensemble([build(small(w), DATA) for w in widths]), 10)


@pytest.fixture
def members() -> list[Classify]:
    torch.manual_seed(0)
    made = [Classify(ClassifyConfig(), build(small(w), DATA), 10).double().eval() for w in (4, 6, 4)]
    for member in made:
        nn.init.normal_(member.get_parameter("top.linear.weight"))
    return made


def test_softmax_of_what_an_ensemble_gives_is_the_average_of_the_members(members: list[Classify]) -> None:
    one = together(4, 6, 4).double().eval()
    assert sum(load_member(one, i, m.state_dict(), "m", whole=True) for i, m in enumerate(members)) == len(
        one.state_dict()
    )
    x = torch.rand(5, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        logits = one.logits(x)
        probabilities = [[z.exp() / z.exp().sum() for z in member.logits(x)] for member in members]
    for i in range(5):
        expected = sum(p[i] for p in probabilities) / 3
        assert torch.allclose(logits[i], expected.log(), atol=1e-6)
        assert torch.allclose(logits[i].softmax(0), expected, atol=1e-6)


def test_logs_of_vanishing_probabilities_stay_finite(members: list[Classify]) -> None:
    one = together(4, 6, 4).eval()
    for i, member in enumerate(members):
        member.get_parameter("top.linear.weight").data.mul_(1e4)
        load_member(one, i, member.state_dict(), "m", whole=True)
    x = torch.rand(3, 1, 28, 28, requires_grad=True)
    logits = one.logits(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert logits.isfinite().all() and gradient.isfinite().all()
    assert logits.min() < -1000


def test_a_pre_trained_member_brings_its_encoder_alone(members: list[Classify]) -> None:
    one = together(4, 6).double()
    top = one.get_parameter("top.member1.linear.weight").clone()
    load_member(one, 1, members[1].state_dict(), "m", whole=False)
    assert torch.equal(
        one.get_parameter("encoder.member1.conv1.weight"), members[1].get_parameter("encoder.conv1.weight")
    )
    assert torch.equal(one.get_parameter("top.member1.linear.weight"), top)


def test_a_member_that_does_not_fit_is_refused_and_nothing_is_copied(members: list[Classify]) -> None:
    one = together(4, 6).double()
    before = {n: t.clone() for n, t in one.state_dict().items()}
    with pytest.raises(UserError, match=r"^model\.members: .* tensors of run2 do not fit"):
        load_member(one, 0, members[1].state_dict(), "run2", whole=True)
    assert all(torch.equal(t, before[n]) for n, t in one.state_dict().items())


# ---- the published checkpoint


def random_branch(prefix: str) -> State:
    """Random weights under the published names, from the layout as it is described."""
    state: State = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(channels) / 2 + 0.5, torch.randn(channels) / 5
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = (
            torch.randn(channels) / 5,
            torch.rand(channels) + 0.5,
        )
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 3, 64, 3)
    norm("bn1", 64)
    inputs = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for i in range(blocks):
            name = f"layer{layer}.{i}"
            for number, (size, outputs, kernel) in enumerate(
                ((inputs, width, 1), (width, width, 3), (width, 4 * width, 1))
            ):
                norm(f"{name}.bn{number}", size)
                conv(f"{name}.conv{number + 1}", size, outputs, kernel)
            if i == 0:
                conv(f"{name}.shortcut.0", inputs, 4 * width, 1)
                norm(f"{name}.shortcut.1", 4 * width)
            inputs = 4 * width
    state["linear.weight"], state["linear.bias"] = torch.randn(10, 2048) / 10, torch.randn(10)
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def probabilities(published: State, x: Tensor) -> Tensor:
    """What the published network gives: softmax outputs of its three branches, averaged."""
    branches = [{n[8:]: t for n, t in published.items() if n.startswith(f"{branch}.")} for branch in BRANCHES]
    return sum((reference(branch, x, training=False).softmax(1) for branch in branches), torch.zeros(len(x), 10)) / 3


def test_the_published_ensemble_gives_what_its_description_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = {"mu": torch.tensor(MEAN).view(1, 3, 1, 1), "sigma": torch.tensor(STD).view(1, 3, 1, 1)}
    for i, branch in enumerate(BRANCHES):
        state = random_branch("")
        published |= {f"{branch}.{n}": t for n, t in state.items()} | {f"models.{i}.{n}": t for n, t in state.items()}
    torch.save(published, tmp_path / "Chen2020Adversarial.pt")
    folders = convert([tmp_path / "Chen2020Adversarial.pt"], tmp_path, ["data.root=unused"])

    config = restore(_yaml(folders[0]))
    assert (config.data.name, config.model.name) == ("cifar10", "resnet50v2")
    one = Classify(ClassifyConfig(), build(Model(name="ensemble", members=[str(f) for f in folders]), config.data), 10)
    for i, folder in enumerate(folders):
        load_member(one, i, checkpoint.load(folder / "checkpoints" / "best_ra.pt")["model"], folder.name, whole=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = one.eval().logits(x)
        expected = probabilities(published, x)
    assert expected.max() - expected.min() > 0.05
    torch.testing.assert_close(found.exp(), expected, rtol=1e-5, atol=1e-5)

    single = Classify(ClassifyConfig(), build(config.model, config.data), 10)
    single.load_state_dict(checkpoint.load(folders[1] / "checkpoints" / "best_ra.pt")["model"])
    with torch.no_grad():
        logits = single.eval().logits(x)
        wanted = reference({n[8:]: t for n, t in published.items() if n.startswith("branch2.")}, x, training=False)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("nested", "prefix", "normalised", "half"),
    [
        ((), "", False, False),
        (("state_dict",), "module.", False, False),
        (("net",), "module.model.", True, False),
        (("model", "state_dict"), "", False, True),
        ((), "model.", True, True),
    ],
)
def test_a_bare_network_gives_what_its_description_gives(
    tmp_path: Path, nested: tuple[str, ...], prefix: str, normalised: bool, half: bool
) -> None:
    torch.manual_seed(0)
    state = random_branch("")
    if half:
        state = {n: t.half().float() if t.is_floating_point() else t for n, t in state.items()}
    content: Any = {f"{prefix}{n}": t.half() if half and t.is_floating_point() else t for n, t in state.items()}
    if normalised:
        content |= {"mu": torch.tensor(MEAN).view(1, 3, 1, 1), "sigma": torch.tensor(STD).view(1, 3, 1, 1)}
    for key in reversed(nested):
        content = {key: content, "epoch": 7}
    torch.save(content, tmp_path / "m0.pt")
    (folder,) = convert([tmp_path / "m0.pt"], tmp_path / "runs", ["data.root=unused"])
    assert folder == tmp_path / "runs" / "m0"

    config = configure("evaluate", [f"checkpoint={folder}", "out=OUT"])
    model, (source,) = load_classifier(config, sorted(CIFAR10))
    assert source.classes == CIFAR10
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = reference(state, x, training=False)
        torch.testing.assert_close(model.eval().logits(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_three_bare_files_become_an_ensemble(tmp_path: Path) -> None:
    torch.manual_seed(0)
    files = [tmp_path / f"m{i}.pt" for i in range(3)]
    states = [random_branch("") for _ in files]
    for file, state in zip(files, states, strict=True):
        torch.save({"state_dict": state}, file)
    folders = convert(files, tmp_path / "runs", ["data.root=unused"])
    assert [folder.name for folder in folders] == ["m0", "m1", "m2"]
    words = ["model=ensemble", f"model.members=[{','.join(map(str, folders))}]", "out=OUT"]
    model, sources = load_classifier(configure("evaluate", words), CIFAR10)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = sum((reference(s, x, training=False).softmax(1) for s in states), torch.zeros(2, 10)) / 3
        torch.testing.assert_close(model.eval().logits(x).exp(), expected, rtol=1e-5, atol=1e-5)
    for folder, source in zip(folders, sources, strict=True):
        result = json.loads((folder / "result.json").read_text())
        assert result["best_ra"]["weights"] == source.digest
        assert result["made_from"]["data"]["classes"] == CIFAR10
    with pytest.raises(UserError, match="holds a run already"):
        convert(files[:1], tmp_path / "runs", ["data.root=unused"])


def another(change: str) -> Any:
    state = random_branch("")
    if change == "classes":
        state |= {"linear.weight": torch.zeros(100, 2048), "linear.bias": torch.zeros(100)}
    elif change == "missing":
        del state["layer2.0.bn1.weight"], state["layer4.2.conv3.weight"]
    elif change == "unknown":
        state["fc.weight"] = torch.zeros(10, 2048)
    elif change == "nan":
        state["linear.bias"][3] = math.nan
    elif change == "branch":
        return {f"branch1.{name}": tensor for name, tensor in state.items()}
    elif change == "empty":
        return {"state_dict": {}, "epoch": 3}
    elif change == "object":
        return {"state_dict": state, "args": Path("x")}
    return state


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("classes", r"linear.bias has the shape \[100\], not \[10\]"),
        ("missing", r"2 of its tensors are missing, such as layer2.0.bn1.weight"),
        ("unknown", r"1 of its tensors are unknown, such as fc.weight"),
        ("nan", r"top.linear.bias is not finite"),
        ("branch", r"branch2 is not a ResNet-50v2 of this family \(\d+ of its tensors are missing"),
        ("empty", r"m0 is not a ResNet-50v2 of this family .*accepted: one ResNet-50v2 .* or the ensemble"),
        ("object", r"not a checkpoint of plain tensors"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, change: str, said: str) -> None:
    torch.save(another(change), tmp_path / "m0.pt")
    with pytest.raises(UserError, match=said) as caught:
        convert([tmp_path / "m0.pt"], tmp_path / "runs", ["data.root=unused"])
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "m0.pt") in str(caught.value)
    assert not (tmp_path / "runs").exists()


def _yaml(folder: Path) -> dict:
    import yaml

    return yaml.safe_load((folder / "config.yaml").read_text())


def test_the_ensemble_needs_members_and_only_it_has_them() -> None:
    for words, said in (
        (["model=ensemble"], "at least two members"),
        (["model=ensemble", "model.members=[]"], "at least two members"),
        (["model.members=[a,b]"], "only model=ensemble"),
        (["model=ensemble", "model.members=[a,b]", "init=RUN"], "drop init"),
        (["model=ensemble", "model.members=[a,b]", "model.width=8"], "each member keeps its own value"),
    ):
        with pytest.raises(UserError, match=said):
            compose("finetune", [*words, "out=RUN"])
    with pytest.raises(UserError, match="pre-training trains one encoder"):
        compose("pretrain", ["model=ensemble", "model.members=[a,b]", "out=RUN"])

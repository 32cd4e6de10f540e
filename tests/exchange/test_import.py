"""An exported network is imported only if the network that is built here gives the outputs that were recorded."""

from __future__ import annotations

import copy
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.evaluation.run import evaluate
from dist_advss.exchange.differences import explain
from dist_advss.exchange.export import export
from dist_advss.exchange.network import Outputs, probe_images, trained
from dist_advss.exchange.receive import receive
from dist_advss.runs.methods import method_of
from dist_advss.runs.read import read
from dist_advss.training.run import train


def test_an_imported_classifier_has_the_verdicts_of_the_exported_one(
    exported: Path, evaluation: Path, tmp_path: Path
) -> None:
    run = receive(exported, tmp_path / "run")
    words = ["attack=fgsm", "attack.eps=0.02", "attack.step_size=0.02", "attack.random_start=false", "data.limit=1000"]
    out = evaluate(configure("evaluate", [f"checkpoint={run}", *words, "device=cpu", f"out={tmp_path / 'judged'}"]))
    with np.load(out / "verdicts.npz") as ours, np.load(evaluation / "verdicts.npz") as theirs:
        assert all((ours[name] == theirs[name]).all() for name in ("clean_prediction", "adversarial_prediction"))


def test_an_imported_encoder_starts_a_fine_tuning(encoder: Path, tmp_path: Path) -> None:
    run = receive(export(str(encoder), tmp_path / "shared"), tmp_path / "run")
    words = ["data.limit=200", "train.batch_size=50", "schedule.epochs=1", "attack.steps=0", "validation.limit=20"]
    out = train(configure("finetune", [f"init={run}", *words, "device=cpu", f"out={tmp_path / 'tuned'}"]), "finetune")
    transferred = json.loads((out / "result.json").read_text())["transferred"]
    assert transferred["matched"] == transferred["total"] > 10


class Wrong(nn.Module):
    """The network `right`, built or called with a mistake."""

    def __init__(self, right: Outputs, change: Callable[[nn.Module], None] = lambda right: None) -> None:
        super().__init__()
        self.right = copy.deepcopy(right)
        change(self.right)

    def forward(self, x: Tensor) -> Tensor:
        return self.right(x)


class Twice(Wrong):
    def forward(self, x: Tensor) -> Tensor:
        return self.right((x - self.right.encoder.normalise.mean) / self.right.encoder.normalise.std)


class Bytes(Wrong):
    def forward(self, x: Tensor) -> Tensor:
        return self.right(x / 255)


class Softmax(Wrong):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.right(x), 1)


class Permuted(Wrong):
    def forward(self, x: Tensor) -> Tensor:
        return self.right(x)[:, [1, 0, *range(2, 10)]]


def unpadded(network: Any) -> None:
    network.encoder.conv1.padding = (0, 0)


def strided(network: Any) -> None:
    network.encoder.conv1.stride = (2, 2)


def reflected(network: Any) -> None:
    network.encoder.conv1.padding = (0, 0)
    network.encoder.conv1.register_forward_pre_hook(lambda _, x: nn.functional.pad(x[0], (1, 1, 1, 1), "reflect"))


def other_eps(network: Any) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


@pytest.mark.parametrize(
    ("clause", "wrong"),
    [
        ("normalises the images twice", Twice),
        ("takes pixels of 0 to 255", Bytes),
        (r"gives probabilities \(softmax\)", Softmax),
        ("classes are permuted", Permuted),
        ("stem pads with 0 pixels, not 1", lambda right: Wrong(right, unpadded)),
        ("stem pads with reflect pixels", lambda right: Wrong(right, reflected)),
        ("stem has stride 2, not 1", lambda right: Wrong(right, strided)),
        ("batch norms have eps=0.001", lambda right: Wrong(right, other_eps)),
        ("in training mode", lambda right: Wrong(right).train()),
    ],
)
def test_a_network_with_a_known_mistake_is_refused_by_its_name(
    clause: str, wrong: Callable[[Outputs], nn.Module], classifier: Path, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "shared")
    images = torch.load(folder / "probe.pt", weights_only=True)["images"]
    with torch.no_grad():
        outputs = wrong(trained("run", str(classifier), None).outputs)(images)
    torch.save({"images": images, "outputs": outputs}, folder / "probe.pt")
    with pytest.raises(UserError, match=clause):
        receive(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_order_of_channels_and_a_missing_normalisation_are_named(tmp_path: Path) -> None:
    config = compose("finetune", ["data=cifar10", "data.root=/", "model.width=8", "model=preact_small", "out=x"])
    from dist_advss.objectives import build

    network = Outputs(build(config)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as a trained one, so that the normalisation matters
            module.running_var.fill_(0.5)
    images = probe_images(3, 32)
    assert explain(network, images, network(images)) is None
    assert explain(network, images, network(images.flip(1))) == "it takes images in the channel order BGR"
    bare = copy.deepcopy(network)
    bare.encoder.normalise = nn.Identity()
    assert explain(network, images, bare(images)) == "it does not normalise the images"
    other = explain(network, images, torch.rand(4, 10, generator=torch.Generator().manual_seed(0)))
    assert other is not None and "no known mistake explains it" in other
    assert explain(network, images, torch.rand(4, 7)) == "it gives [7] outputs an image, and this network [10]"


def test_a_mistake_that_does_not_fit_a_network_is_passed_over() -> None:
    """One image has no batch statistics, the stem has a parameter that other convolutions lack, and a network may have no stem."""

    class Scaled(nn.Conv2d):
        def __init__(self, *sizes: int, **more: Any) -> None:
            super().__init__(*sizes, **more)
            self.gain = nn.Parameter(torch.ones(()))

    config = compose("finetune", ["model=timm:resnet18", "model.width=null", "data=cifar10", "data.root=/", "out=x"])
    from dist_advss.objectives import build

    network = Outputs(build(config)).eval()
    image = probe_images(3, 32)[:1]
    stem = network.encoder.net.net.conv1
    network.encoder.net.net.conv1 = Scaled(3, stem.out_channels, 7, stride=2, padding=3, bias=False)
    without_stem = Outputs(build(config)).eval()
    without_stem.encoder = nn.Sequential(OrderedDict(normalise=nn.Identity(), flatten=nn.Flatten()))
    without_stem.top = nn.Linear(image.numel(), 10)
    for one in (network, without_stem):
        recorded = one(image).detach()
        assert explain(one, image, recorded) is None
        clause = explain(one, image, recorded + 1000 * torch.arange(10))
        assert clause is not None and "no known mistake explains it" in clause


def test_damaged_and_foreign_folders_are_refused(exported: Path, tmp_path: Path) -> None:
    def damaged(name: str, change: Callable[[Path], object]) -> Path:
        folder = shutil.copytree(exported, tmp_path / name)
        change(folder)
        return folder

    def card(**entries: object) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | entries))

        return change

    def other_weights(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file({**weights, "top.linear.bias": weights["top.linear.bias"] + 1}, folder / "model.safetensors")

    def wider(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content["config"]["model"]["width"] = 16
        (folder / "config.json").write_text(json.dumps(content))

    for match, folder in (
        ("no config.json", damaged("empty", lambda f: (f / "config.json").unlink())),
        ("not from dist-advss export", damaged("list", lambda f: (f / "config.json").write_text("[]"))),
        ("format 'x 2', not", damaged("format", card(format="x 2"))),
        ("not from dist-advss export", damaged("command", card(command="evaluate"))),
        ("not from dist-advss export", damaged("data", card(data=None))),
        ("other weights than config.json says", damaged("weights", other_weights)),
        ("cannot be read", damaged("cut", lambda f: (f / "model.safetensors").write_bytes(b"12345"))),
        ("probe.pt: damaged", damaged("probe", lambda f: (f / "probe.pt").write_bytes(b"12345"))),
        ("has the shape .* check model=preact_small and its width", damaged("wider", wider)),
    ):
        with pytest.raises(UserError, match=match):
            receive(folder, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").touch()
    with pytest.raises(UserError, match="is not empty"):
        receive(exported, tmp_path / "run")


def test_an_import_runs_no_code_of_the_folder(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "shared")
    (folder / "load.py").write_text("raise SystemExit('run')")
    (folder / "model.pt2").write_bytes(b"no program")
    receive(folder, tmp_path / "run")


def test_an_imported_network_keeps_its_method_beside_a_run_of_the_name_of_its_pre_training(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["data.limit=100", "train.batch_size=50", "schedule.epochs=1", "attack.steps=0", "validation.limit=20"]
    config = configure("finetune", [f"init={encoder}", *words, "device=cpu", f"out={tmp_path / 'tuned'}"])
    shared, here = export(str(train(config, "finetune")), tmp_path / "shared"), tmp_path / "here"
    shutil.copytree(encoder, here / encoder.name)
    unlike = here / encoder.name / "config.yaml"
    unlike.write_text(unlike.read_text().replace("name: rotation", "name: jigsaw"))
    monkeypatch.chdir(here)
    receive(shared, here / "imported")
    card = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps({**card, "pretraining": None}))  # as an earlier version has it
    receive(shared, here / "earlier")
    launch = read(here, 0.0)
    found = {stage: method_of(run, launch).full for stage, run in launch.runs.items()}
    assert found == {encoder.name: "P2 jigsaw", "imported": "P2→F3 rotation", "earlier": "?→F3"}
    assert "Its method is P2→F3 rotation." in (shared / "README.md").read_text()
    # and it is passed on
    again = json.loads((export(str(here / "imported"), tmp_path / "again") / "config.json").read_text())
    assert (again["method"], again["pretraining"]) == (card["method"], card["pretraining"])


@pytest.mark.parametrize("said", ["P2", {"pretrain": ["P2"]}, {"pretrain": "P9", "task": "x"}, {"task": "rotation"}])
def test_a_card_cannot_say_just_anything_of_the_pre_training(exported: Path, tmp_path: Path, said: Any) -> None:
    shared = shutil.copytree(exported, tmp_path / "shared")
    card = json.loads((shared / "config.json").read_text())
    config = card["config"] | {"init": "elsewhere"}
    (shared / "config.json").write_text(json.dumps({**card, "config": config, "pretraining": said}))
    run = receive(shared, tmp_path / "run")
    launch = read(run, 0.0)
    assert [method_of(found, launch).full for found in launch.runs.values()] == ["?→F3"]

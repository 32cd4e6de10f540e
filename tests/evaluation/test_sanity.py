"""`suite=sanity`: each planted fault raises its own flag, and sound models raise none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_advss.cli import main
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.data import as_float, load_data
from dist_advss.errors import UserError
from dist_advss.evaluation import sanity as module
from dist_advss.evaluation.checks import MEANINGS, falls, gap, queries, stronger
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.evaluation.sanity import NAMES, OF_ATTACKS, Logits, examine
from dist_advss.evaluation.suite import evaluate_or_suite
from dist_advss.training.run import train
from tests.evaluation.conftest import TRAINED

EPS = 0.1
ALL = [*(name for names in NAMES for name in names), *OF_ATTACKS]


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small classifier that PGD has trained."""
    out = tmp_path_factory.mktemp("robust") / "run"
    words = [
        *TRAINED,
        "attack.steps=2",
        f"attack.eps={EPS}",
        "validation.every=3",
        "schedule.epochs=2",
        "data.limit=500",
        f"out={out}",
    ]
    return train(compose("finetune", words), "finetune")


@pytest.fixture(scope="module")
def seen(trained: Path) -> tuple[Logits, Tensor, Tensor]:
    """A sound model, with 40 images and their labels."""
    config = configure("evaluate", [f"checkpoint={trained}", "out=x"])
    images = load_data(config.data, "test", labelled=True)
    model, _ = load_classifier(config, images.classes)
    return Logits(model).eval(), as_float(images.images[:40].permute(0, 3, 1, 2)), images.labels[:40]


class Faulty(nn.Module):
    """A model, and what spoils it."""

    def __init__(self, sound: nn.Module, fault: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.sound, self.fault = sound, fault

    def forward(self, x: Tensor) -> Tensor:
        return self.fault(self.sound, x)


class Deaf(torch.autograd.Function):
    """The identity, with a gradient of random signs: what an attack sees behind a shattered gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        generator = torch.Generator().manual_seed(3)
        return gradient.abs() * (torch.randint(0, 2, gradient.shape, generator=generator) * 2 - 1)


class Batch(nn.BatchNorm2d):
    """Uses the statistics of the batch, in whatever mode it is."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, None, None, training=True)


FAULTS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "softmax": (lambda f, x: f(x).softmax(1), "outputs are logits"),
    "dropout": (lambda f, x: f(nn.functional.dropout(x, 0.3, training=True)), "same image, same answer"),
    "batch statistics": (lambda f, x: f(Batch(1)(x)), "same image, same answer"),
    "logits x 1e4": (lambda f, x: 1e4 * f(x), "scale of the logits"),
    "quantised to 8 bits": (lambda f, x: f((x * 255).round() / 255), "small changes count"),
    "quantised to 4 bits": (lambda f, x: f((x * 15).round() / 15), "small changes count"),
    "saturated outputs": (lambda f, x: 5 * torch.tanh(1e4 * f(x)), "gradients are there"),
    "saturated inputs": (lambda f, x: f(torch.sigmoid(1e3 * (x - 0.5))), "gradients are there"),
    "no gradient": (lambda f, x: f(x.detach()), "gradients are there"),
    "shattered gradient": (lambda f, x: f(Deaf.apply(x)), "gradients lead uphill"),
    "NaN": (lambda f, x: f(x) + (x.amax((1, 2, 3), keepdim=True)[:, :, 0, 0] - 0.99).sqrt() * 0, "finite outputs"),
    "NaN in the gradient": (lambda f, x: f(x) + ((x - x) ** 2).sum((1, 2, 3))[:, None].sqrt(), "finite outputs"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_raises_its_own_flag_and_no_other(name: str, seen: Any) -> None:
    sound, images, labels = seen
    fault, flag = FAULTS[name]
    found = examine(Faulty(sound, fault), images, labels, Attack(eps=EPS))
    assert found.failed == [flag]
    assert [check.name for check in found.checks] == ALL
    later = {check.verdict for check in found.checks[ALL.index(flag) + 1 :] if check.name in OF_ATTACKS}
    assert later == {"not done"}, "an attack on such a model says nothing"


@pytest.mark.parametrize("kind", ["trained", "robust"])
def test_sound_models_raise_no_flag(
    kind: str, request: Any, tmp_path: Path, trained: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHORT", Attack(algorithm="autoattack", steps=5, targets=2, queries=20))
    run = request.getfixturevalue(kind)
    source = trained if kind == "trained" else f"{file}:build"
    words = [
        "suite=sanity",
        "suite.images=24",
        f"attack.eps={EPS}",
        "device=cpu",
        "threads=1",
        f"suite.source={source}",
    ]
    out = evaluate_or_suite(configure("evaluate", [f"checkpoint={run}", *words, f"out={tmp_path / 'out'}"]))
    result = json.loads((out / "result.json").read_text())
    assert result["failed"] == []
    assert {check["verdict"] for check in result["checks"]} == {"pass"}
    assert [check["name"] for check in result["checks"]] == ALL
    assert (f"{file}:build" in result["made_from"]["weights"]) == (kind == "robust")
    with np.load(out / "verdicts.npz") as columns:
        rates = 100 * columns["right"].mean(0)
    assert result["attacks"]["ra"] == pytest.approx(rates.tolist(), abs=1e-3)
    assert main(["verify", str(out)]) == 0
    # A figure that is not that of the verdicts is found.
    result["attacks"]["ra"][0] += 10
    (out / "result.json").write_text(json.dumps(result))
    assert main(["verify", str(out)]) == 1


def test_an_attack_that_finds_too_little_is_caught(seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, images, labels = seen
    monkeypatch.setattr(module, "SHORT", Attack(algorithm="autoattack", steps=5, targets=1, queries=5))
    whole = module._pgd
    weak = {"steps": 1, "step_size": 1e-4, "random_start": False}
    monkeypatch.setattr(module, "_pgd", lambda attack, eps: replace(whole(attack, eps), **weak))
    found = examine(sound, images, labels, Attack(eps=EPS))
    assert found.failed == ["RA falls with eps to 0", "PGD beats one step", "PGD is near AutoAttack"]


@pytest.mark.parametrize("label", [-100, -1, 10])
def test_labels_without_an_output_are_refused(seen: Any, label: int) -> None:
    sound, images, labels = seen
    wrong = torch.cat([labels[:-1], torch.tensor([label])])
    with pytest.raises(UserError, match=str(label)):
        examine(sound, images, wrong, Attack(eps=EPS))


@pytest.mark.parametrize(("norm", "eps", "largest"), [("l2", 127.5, 28), ("linf", 8, 1), ("l1", 3000, 784)])
def test_a_radius_beyond_all_images_is_refused_before_anything_is_written(
    norm: Any, eps: float, largest: int, seen: Any, trained: Path, tmp_path: Path
) -> None:
    sound, images, labels = seen
    with pytest.raises(UserError, match=rf"^attack.eps={eps:g}: .* at most {largest} apart in {norm}; .* {eps:g}/255$"):
        examine(sound, images, labels, Attack(norm=norm, eps=eps))
    words = ["suite=sanity", f"attack.norm={norm}", f"attack.eps={eps}", f"out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"^attack\."):
        evaluate_or_suite(configure("evaluate", [f"checkpoint={trained}", *words]))
    assert not (tmp_path / "out").exists()


def test_without_another_model_the_transfer_is_not_done(seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, images, labels = seen
    for ask in ("_by_radius", "_one_step", "_autoattack"):
        monkeypatch.setattr(module, ask, lambda *given: [])
    last = examine(sound, images, labels, Attack(eps=EPS)).checks[-1]
    assert (last.name, last.verdict) == ("white box beats transfer", "not done")
    assert "suite.source=RUN" in last.figure


def test_what_is_tried_on_the_model_is_what_all_steps_on_the_other_one_lead_to(
    seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the first iterate that fools the other model: it would hardly be moved where that model is wrong already."""
    sound, images, labels = seen
    stands = np.ones(len(images), bool)
    monkeypatch.setattr(module, "_by_radius", lambda *given: given[2].attacks.append(("PGD-20", EPS, stands)) or [])
    for ask in ("_one_step", "_autoattack"):
        monkeypatch.setattr(module, ask, lambda *given: [])
    wrong = (labels + 1) % 10  # the other model is wrong about every image

    def found(attack: Attack) -> Tensor:
        from dist_advss.attacks import build
        from dist_advss.images import alone
        from dist_advss.objectives.base import Task
        from dist_advss.rng import Rng

        rng = Rng(0).rows(torch.arange(len(images)))
        moved = alone(build(attack, sound.model).fool(sound.model.judge, Task(images, wrong, rng)))
        assert ((moved - images).abs().flatten(1).amax(1) > 0.9 * EPS).all()
        return moved

    last = examine(sound, images, labels, Attack(eps=EPS), transferred=found).checks[-1]
    assert last.name == "white box beats transfer" and last.verdict != "not done"


def test_pixels_outside_0_to_1_and_too_few_outputs_are_one_line(seen: Any) -> None:
    sound, images, labels = seen
    with pytest.raises(UserError, match=r"values from 0 to 255, not in \[0,1\]"):
        examine(sound, images * 255, labels, Attack(eps=EPS))
    with pytest.raises(UserError, match="5 outputs for an image, and the labels go up to 9"):
        examine(Faulty(sound, lambda f, x: f(x)[:, :5]), images, labels, Attack(eps=EPS))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["suite=sanitty"], "suite=sanitty: no such file"),
        (["suite=sanity", "suite.images=3"], "suite.images=3: below the smallest"),
        (["suite=sanity", "data.limit=5"], "data.limit=5: suite=sanity needs at least 20"),
        (["suite=sanity", "attack=none", "attack.eps=0"], "attack.eps=0: suite=sanity attacks"),
        (["suite.source=x"], "suite.source=x: only the sanity checks"),
        (["suite=sanity", "suite.source=/nowhere"], "no such run folder"),
        (["suite=quick", "suite.source=/nowhere"], "no such run folder"),
        (["suite=sanity", "suite.source=gone.py:build"], "no such file; give FILE.py:FUNCTION, or a run folder"),
    ],
)
def test_a_users_mistakes_are_one_line(words: list[str], match: str, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=match):
        evaluate_or_suite(configure("evaluate", [f"checkpoint={trained}", "device=cpu", *words, f"out={out}"]))
    assert not out.exists()


def test_the_limits_of_the_answers() -> None:
    assert falls([(0.1, 50.0), (0.2, 50.9)], 200, None).verdict == "pass", "an image or two is chance"
    assert falls([(0.1, 50.0), (0.2, 52.0)], 200, None).verdict == "fail"
    assert falls([(0.1, 50.0)], 200, 5.0).verdict == "fail"
    assert stronger("PGD beats one step", ("PGD", 52.0), ("FGSM", 50.0), 200).verdict == "fail"
    assert gap(("PGD", 50.0), ("AutoAttack", 45.0)).verdict == "pass"
    assert gap(("PGD", 50.0), ("AutoAttack", 35.0)).verdict == "fail"
    assert queries(1, 20).verdict == "pass" and queries(5, 200).verdict == "fail"
    assert set(ALL) <= set(MEANINGS)

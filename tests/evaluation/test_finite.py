"""Weights, logits and gradients that are not finite end a command in one line. They never become a rate."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.config.schema import Data
from dist_advss.data import load_data
from dist_advss.errors import RunError, UserError
from dist_advss.evaluation.run import evaluate
from dist_advss.evaluation.transfer import transfer
from dist_advss.objectives import Classify
from dist_advss.training import checkpoint
from dist_advss.training.run import train

from .conftest import SMALL, TRAINED

FEW = [*SMALL, "data.limit=20", "attack.steps=2", "batch_size=8"]


def broken(run: Path, out: Path, value: float, name: str) -> Path:
    """A copy of the run with one number replaced in all of its checkpoints."""
    shutil.copytree(run, out)
    for file in (out / "checkpoints").glob("*.pt"):
        content = torch.load(file, weights_only=True)
        content["model"][name].view(-1)[-1] = value
        torch.save(content, file)
    return out


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["top.linear.bias", "encoder.layer1.0.bn1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_every_command(
    trained: Path, tmp_path: Path, value: float, name: str
) -> None:
    bad, out = broken(trained, tmp_path / "bad", value, name), tmp_path / "out"
    tiny = [*TRAINED[1:], "schedule.epochs=1"]
    commands: list[tuple[str, Callable[[Any], Any], list[str]]] = [
        ("evaluate", evaluate, [f"checkpoint={bad}", *FEW]),
        ("evaluate", evaluate, ["model=ensemble", f"model.members=[{trained},{bad}]", *FEW]),
        ("transfer", transfer, [f"sources=[{trained}]", f"targets=[{bad}]", *FEW]),
        ("transfer", transfer, [f"sources=[{bad}]", *FEW]),
        ("finetune", lambda config: train(config, "finetune"), [f"init={bad}", *tiny]),
        (
            "finetune",
            lambda config: train(config, "finetune"),
            ["model=ensemble", f"model.members=[{trained},{bad}]", *tiny],
        ),
    ]
    for command, run, words in commands:
        with pytest.raises(UserError) as caught:
            run(configure(command, [*words, f"out={out}"]))
        text = str(caught.value)
        assert f"{bad}/checkpoints/" in text and f"{name} is not finite" in text and "\n" not in text
        assert not out.exists()


def test_a_last_checkpoint_that_is_not_finite_is_passed_over(trained: Path, tmp_path: Path) -> None:
    folder = broken(trained, tmp_path / "bad", math.nan, "top.linear.bias") / "checkpoints"
    shutil.copy(trained / "checkpoints" / "previous.pt", folder / "previous.pt")
    found = checkpoint.load_latest(folder)
    assert found is not None
    assert found[1] == folder / "previous.pt"
    assert "top.linear.bias is not finite" in found[2][0]


IMAGE = 11  # of the test images, the one that a model has no finite numbers for


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`spoil(value, when)`: classifiers give IMAGE a logit of `value`: when it is "clean", or "attacked" within 0.1."""
    logits = Classify.logits
    pixels = load_data(Data("fashion_mini", size=28, channels=1), "test", labelled=True).images[IMAGE]
    image = pixels.permute(2, 0, 1).float() / 255

    def arrange(value: float, when: str, only: Callable[[Classify], bool] = lambda model: True) -> None:
        def spoiled(self: Classify, x: torch.Tensor) -> torch.Tensor:
            found = logits(self, x)
            distance = (x.detach() - image).abs().flatten(1).amax(1)
            hit = distance < 1e-6 if when == "clean" else (distance > 1e-6) & (distance < 0.1 + 1e-5)
            if not only(self) or not hit.any():
                return found
            column = torch.arange(found.shape[1]) == (0 if value > 0 else 3)  # 3 is not its label
            return torch.where(hit[:, None] & column, value, found)

        monkeypatch.setattr(Classify, "logits", spoiled)

    return arrange


def refusal(run: Callable[[], Any]) -> str:
    with pytest.raises(RunError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("when", "said"), [("clean", "as it is"), ("attacked", "under the attack")])
@pytest.mark.parametrize("keep", ["last", "any"])
def test_an_evaluation_names_the_image_whose_logits_are_not_finite(
    trained: Path, tmp_path: Path, spoil: Callable[..., None], value: float, when: str, said: str, keep: str
) -> None:
    spoil(value, when)
    words = [
        f"checkpoint={trained}",
        *FEW,
        f"attack.keep={keep}",
        "attack.random_start=true",
        f"out={tmp_path / 'out'}",
    ]
    text = refusal(lambda: evaluate(configure("evaluate", words)))
    assert text.startswith(
        f"image {IMAGE}: {said}, the loss, a logit or a gradient of {trained}/checkpoints/best_ra.pt"
    )
    assert not (tmp_path / "out" / "result.json").exists()
    assert not (tmp_path / "out" / "verdicts.npz").exists()


def test_a_restart_that_is_lost_is_not_passed_over(trained: Path, tmp_path: Path, spoil: Callable[..., None]) -> None:
    """Its loss is NaN, which is never the highest: without the check another restart would be taken for the strongest."""
    starts = iter([False, False, True])
    spoil(math.nan, "attacked", only=lambda model: next(starts, False))
    words = [f"checkpoint={trained}", *FEW, "attack.restarts=3", "batch_size=20", f"out={tmp_path / 'out'}"]
    assert refusal(lambda: evaluate(configure("evaluate", words))).startswith(f"image {IMAGE}: under the attack")


@pytest.mark.parametrize(("when", "said"), [("clean", "as it is"), ("attacked", "under the attack")])
def test_a_transfer_names_the_image_and_the_model(
    trained: Path, tmp_path: Path, spoil: Callable[..., None], when: str, said: str
) -> None:
    shutil.copytree(trained, tmp_path / "target")
    spoil(math.nan, when)
    words = [f"sources=[{trained}]", f"targets=[{tmp_path / 'target'}]", *FEW, f"out={tmp_path / 'out'}"]
    text = refusal(lambda: transfer(configure("transfer", words)))
    assert text.startswith(f"image {IMAGE}: {said}, the loss, a logit or a gradient of ")
    assert str(trained if when == "attacked" else tmp_path / "target") in text
    assert not (tmp_path / "out" / "result.json").exists()


class LostGradient(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan


@pytest.mark.parametrize("keep", ["last", "any"])
def test_a_gradient_of_nan_is_not_taken_for_a_robust_image(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """The attack would stand still, and every image that is right clean would be right attacked."""
    logits = Classify.logits
    monkeypatch.setattr(Classify, "logits", lambda self, x: logits(self, LostGradient.apply(x)))
    words = [f"checkpoint={trained}", *FEW, f"attack.keep={keep}", f"out={tmp_path / 'out'}"]
    assert refusal(lambda: evaluate(configure("evaluate", words))).startswith("image ")


def test_the_command_line_ends_with_one_line_and_code_1(
    trained: Path, tmp_path: Path, spoil: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(math.nan, "attacked")
    assert main(["evaluate", f"checkpoint={trained}", *FEW, f"out={tmp_path / 'out'}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"image {IMAGE}: under the attack" in lines[0]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("when", ["clean", "attacked"])
def test_a_validation_whose_logits_are_not_finite_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, when: str
) -> None:
    """A logit of minus infinity at a wrong class leaves the loss finite, and NaN has an argmax."""
    logits = Classify.logits

    def spoiled(self: Classify, x: torch.Tensor) -> torch.Tensor:
        found = logits(self, x)
        stored = (x.detach() * 255 - (x.detach() * 255).round()).abs().amax() < 1e-3
        if self.training or bool(stored) != (when == "clean") or torch.is_grad_enabled():
            return found
        return torch.where(torch.arange(10) == found.argmin(1, keepdim=True), value, found)

    monkeypatch.setattr(Classify, "logits", spoiled)
    words = [*TRAINED, "data.limit=100", "schedule.epochs=1", f"out={tmp_path / 'run'}"]
    text = refusal(lambda: train(configure("finetune", words), "finetune"))
    loss = {"clean": "loss_clean", "attacked": "loss_adversarial"}[when]
    assert f"validation {loss} is nan" in text and "the last good checkpoint is" in text
    assert not (tmp_path / "run" / "checkpoints" / "best_ra.pt").exists()

"""`model=FILE.py:FUNCTION`: a model that a user's file makes, judged by the commands that judge runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.evaluation.corruptions import corruptions
from dist_advss.evaluation.run import evaluate
from dist_advss.evaluation.suite import evaluate_or_suite
from dist_advss.evaluation.transfer import transfer
from dist_advss.evaluation.unforeseen import unforeseen

WORDS = ["data=fashion_mini", "data.limit=24", "batch_size=12", "device=cpu", "threads=1"]


def verdicts(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "verdicts.npz") as archive:
        return {name: archive[name] for name in archive.files if name != "made_from"}


@pytest.mark.parametrize(
    ("command", "run", "words"),
    [
        ("evaluate", evaluate, ["attack=pgd3", "attack.eps=0.05"]),
        ("corruptions", corruptions, ["kinds=[contrast]"]),
        ("unforeseen", unforeseen, ["kinds=[l1]", "steps=2"]),
    ],
)
def test_it_gets_the_verdicts_of_the_run_that_has_its_weights(
    command: str, run: Callable[[Any], Path], words: list[str], file: Path, trained: Path, tmp_path: Path
) -> None:
    own = run(configure(command, [f"model={file}:build", *WORDS, *words, f"out={tmp_path / 'own'}"]))
    there = run(configure(command, [f"checkpoint={trained}", *WORDS, *words, f"out={tmp_path / 'there'}"]))
    found, expected = verdicts(own), verdicts(there)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert main(["verify", str(own)]) == 0


def test_its_adversarial_images_fool_another_model_as_those_of_the_run_that_has_its_weights(
    file: Path, trained: Path, tmp_path: Path
) -> None:
    words = [*WORDS, "attack=pgd3", "attack.eps=0.05", f"targets=[{file}:build,{trained},{file}:fresh]"]
    found = {}
    for name, source in (("own", f"{file}:build"), ("there", str(trained))):
        config = configure("transfer", [f"sources=[{source}]", *words, f"out={tmp_path / name}"])
        found[name] = verdicts(transfer(config))["correct"]
        assert main(["verify", config.out]) == 0
    assert np.array_equal(found["own"], found["there"])
    assert 0 < found["own"][:, 0].mean() < found["own"][:, 1].mean(), "they fool it, or the comparison says little"
    recorded = list(json.loads((tmp_path / "own" / "made_from.json").read_text())["weights"])
    assert recorded == [str(file), str(trained / "checkpoints" / "best_ra.pt"), f"{file}:build", f"{file}:fresh"]
    transfer(config)  # done once
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=rf"its result is of other weights \(file {file} had digest"):
        transfer(config)


FLAT = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(784, 10)

    @torch.no_grad()
    def forward(self, x):
        return self.linear(x.flatten(1))
"""


def test_a_model_without_gradients_is_refused_by_attacks_that_follow_them_and_judged_by_square(tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(FLAT)
    words = [f"model={tmp_path / 'flat.py'}:Flat", *WORDS, f"out={tmp_path / 'out'}"]
    for attack in ("pgd20", "autoattack"):
        with pytest.raises(
            UserError, match=r"flat\.py:Flat: its logits have no gradient in the images .* attack=square"
        ):
            evaluate(configure("evaluate", [*words, f"attack={attack}"]))
    assert not (tmp_path / "out").exists()
    evaluate(configure("evaluate", [*words, "attack=square", "attack.queries=3", "attack.eps=0.01"]))
    (warning,) = json.loads((tmp_path / "out" / "result.json").read_text())["warnings"]
    assert "16 images have a gradient that is 0" in warning


@pytest.mark.parametrize(
    ("command", "run", "words"),
    [
        ("unforeseen", unforeseen, ["model=FLAT"]),
        ("evaluate", evaluate_or_suite, ["model=FLAT", "suite=quick"]),
        ("evaluate", evaluate_or_suite, ["model=FILE", "suite=sanity", "suite.source=FLAT"]),
        ("transfer", transfer, ["sources=[FLAT]", "attack=pgd3"]),
    ],
)
def test_every_command_that_follows_gradients_refuses_a_model_without_them_before_it_writes(
    command: str, run: Callable[[Any], Path], words: list[str], file: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat.py").write_text(FLAT)
    given = [word.replace("FLAT", f"{tmp_path / 'flat.py'}:Flat").replace("FILE", f"{file}:build") for word in words]
    with pytest.raises(UserError, match=r"flat\.py:Flat: its logits have no gradient in the images"):
        run(configure(command, [*given, *WORDS, f"out={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()


def test_images_can_be_judged_on_a_model_without_gradients_that_were_found_on_another(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat.py").write_text(FLAT)
    words = [f"sources=[{file}:build]", f"targets=[{tmp_path / 'flat.py'}:Flat]", "attack=pgd3", *WORDS]
    assert (transfer(configure("transfer", [*words, f"out={tmp_path / 'out'}"])) / "result.json").exists()


def test_a_file_that_has_changed_is_refused_and_weights_that_have_are_judged_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "own"
    words = ["model=mine.py:fresh", *WORDS, "attack=pgd3", "attack.eps=0.05", f"out={out}"]
    evaluate(configure("evaluate", words))
    weights = json.loads((out / "result.json").read_text())["made_from"]["weights"]
    assert list(weights) == [str(file), f"{file}:fresh"]
    # Random weights are those of the seed, so the same command finds the same model.
    (out / "result.json").unlink()
    evaluate(configure("evaluate", words))
    assert json.loads((out / "result.json").read_text())["made_from"]["weights"] == weights
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=rf"its result is of other weights \(file {file} had digest .{{16}}, now"):
        evaluate(configure("evaluate", words))
    assert main(["verify", str(out)]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def other(): pass", "defines no function build; .*other"),
        ("def build(:", r"not valid Python \(.*line 2\)"),
        ("1 / 0\ndef build(): pass", r"mine\.py:2: ZeroDivisionError: division by zero"),
        ("def build():\n    return missing", r"mine\.py:3: NameError: name 'missing'"),
        ("def build(width): pass", "called without arguments .*width.*; give each a default"),
        ("def build(): return 3", "returned int; return a torch.nn.Module"),
        ("build = 3", "a int, not a function"),
        ("def build(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))", "gives 7 logits, and data.classes=10"),
        ("def build(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1))", "gives probabilities"),
        ("def build(): return nn.Flatten(0)", "it must give logits"),
        ("def build(): return nn.Sequential(nn.Flatten(), nn.Linear(3, 10))", r"mine\.py: RuntimeError: mat1 and mat2"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused_in_one_line_and_nothing_is_written(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(f"from torch import nn\n{text}")
    with pytest.raises(UserError, match=said) as refused:
        evaluate(configure("evaluate", [f"model={tmp_path / 'mine.py'}:build", *WORDS, f"out={tmp_path / 'own'}"]))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("evaluate", ["model=gone.py:build"], "model=gone.py:build: no such file; give FILE.py:FUNCTION"),
        ("evaluate", ["model=FILE", "checkpoint=RUN"], "brings its weights, and checkpoint=.* drop one"),
        ("evaluate", ["model=FILE", "model.mean=[0.5]"], "normalisation included; drop it"),
        (
            "transfer",
            ["sources=[gone.py:build]"],
            "sources=gone.py:build: no such file; give FILE.py:FUNCTION, or a run",
        ),
        ("finetune", ["init=FILE"], "no such run folder"),
        ("finetune", ["model=FILE"], "finetune trains networks of configs/model"),
    ],
)
def test_it_is_refused_where_it_cannot_count(
    command: str, words: list[str], said: str, file: Path, trained: Path, tmp_path: Path
) -> None:
    given = [word.replace("FILE", f"{file}:build").replace("RUN", str(trained)) for word in words]
    with pytest.raises(UserError, match=said):
        configure(command, [*given, f"out={tmp_path / 'out'}"])


def test_the_config_of_a_run_never_has_a_file_run(file: Path, trained: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    shutil.copytree(trained, stranger)
    config = (stranger / "config.yaml").read_text()
    assert "name: preact_small" in config
    (stranger / "config.yaml").write_text(config.replace("name: preact_small", f"name: {file}:build"))
    file.write_text("raise SystemExit('it ran')")
    for command, words in (
        ("evaluate", [f"checkpoint={stranger}"]),
        ("unforeseen", [f"checkpoint={stranger}"]),
        ("finetune", [f"init={stranger}"]),
        ("transfer", [f"sources=[{stranger}]", "device=cpu", "threads=1"]),
        ("evaluate", ["model=ensemble", f"model.members=[{stranger},{stranger}]", "device=cpu", "threads=1"]),
    ):
        assert main([command, *words, f"out={tmp_path / 'out'}"]) == 2
    assert not (tmp_path / "out").exists()

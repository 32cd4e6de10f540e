"""Labels count through the classes of the model by name, whatever order the images have them in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.evaluation.run import evaluate
from dist_advss.evaluation.transfer import transfer
from dist_advss.training import checkpoint
from dist_advss.training.run import train
from tests.trees import TRAINED, WORDS, picture, tree

JUDGED = [word for word in WORDS if not word.startswith("data")]
ATTACKED = [*JUDGED, "attack.eps=0.25"]


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def on(root: Path) -> list[str]:
    return [*(word for word in WORDS if word.startswith("data")), f"data.root={root}", f"data.classes={classes(root)}"]


def classes(root: Path) -> int:
    return len(list((root / "train").iterdir()))


def fine_tuned(out: Path, root: Path, *words: str) -> Path:
    learning = ["schedule.epochs=8", "schedule.lr=0.05", "validation.limit=4"]
    ensemble = any(word.startswith("model=") for word in words)
    alone = [word for word in TRAINED if not (ensemble and word.startswith("model"))]
    return train(configure("finetune", [*alone, *on(root), *learning, *words, f"out={out}"]), "finetune")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("set") / "set", ["cat", "dog", "emu"])


@pytest.fixture(scope="module")
def learned(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning that is right about every test image."""
    return fine_tuned(tmp_path_factory.mktemp("learned") / "run", root)


@pytest.fixture(scope="module")
def other(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second one, with other weights."""
    return fine_tuned(tmp_path_factory.mktemp("other") / "run", root, "seed=1", "model.width=6")


def reordered(run: Path, out: Path, order: list[int]) -> Path:
    """The same classifier as one whose class k is class order[k] of `run`."""
    shutil.copytree(run, out)
    for file in (out / "checkpoints").glob("*.pt"):
        content = checkpoint.load(file)
        for name in ("top.linear.weight", "top.linear.bias"):
            content["model"][name] = content["model"][name][order].clone()
        content["data"]["classes"] = [content["data"]["classes"][k] for k in order]
        content["data"]["root"] = "/elsewhere"
        checkpoint.save(file, {key: value for key, value in content.items() if key != "format"})
    return out


def judged(out: Path, *words: str) -> dict[str, Any]:
    return result(evaluate(configure("evaluate", [*ATTACKED, *words, f"out={out}"])))


def matrix(out: Path, *words: str) -> dict[str, Any]:
    return result(transfer(configure("transfer", [*ATTACKED, *words, f"out={out}"])))


def together(*runs: Path) -> list[str]:
    return ["model=ensemble", f"model.members=[{','.join(map(str, runs))}]"]


def test_an_evaluation_is_the_same_in_each_order_of_the_classes(learned: Path, tmp_path: Path) -> None:
    expected = judged(tmp_path / "a", f"checkpoint={learned}")
    assert expected["ta"] == 100 and expected["ra"] < 100
    turned = reordered(learned, tmp_path / "turned", [2, 0, 1])
    found = judged(tmp_path / "b", f"checkpoint={turned}")
    assert (found["ta"], found["ra"]) == (100, expected["ra"])
    by_name = [{row["class"]: row for row in each["per_class"]} for each in (expected, found)]
    assert by_name[0] == by_name[1]
    with np.load(tmp_path / "b" / "verdicts.npz") as verdicts, np.load(tmp_path / "a" / "verdicts.npz") as before:
        assert np.array_equal(np.array([2, 0, 1])[verdicts["label"]], before["label"])
    shown = []
    for name in "ab":
        with np.load(tmp_path / name / "samples" / "samples.npz") as samples:
            shown.append([samples["classes"][samples[key]].tolist() for key in ("label", "clean_prediction")])
    assert shown[0] == shown[1] and shown[0][0] == shown[0][1]


def test_an_ensemble_averages_classes_of_one_name(learned: Path, other: Path, tmp_path: Path) -> None:
    expected = judged(tmp_path / "a", *together(learned, other))
    turned = reordered(other, tmp_path / "turned", [1, 2, 0])
    for number, members in enumerate(((learned, turned), (turned, learned))):
        found = judged(tmp_path / f"b{number}", *together(*members))
        assert (found["ta"], found["ra"]) == (expected["ta"], expected["ra"]) == (100, expected["ra"])


def test_a_transfer_asks_each_model_in_its_own_order(learned: Path, other: Path, tmp_path: Path) -> None:
    expected = matrix(tmp_path / "a", f"sources=[{learned},{other}]")
    turned = reordered(other, tmp_path / "turned", [1, 2, 0])
    found = matrix(tmp_path / "b", f"sources=[{learned},{turned}]")
    assert found["ta"] == expected["ta"] == [100, 100]
    assert found["ra"] == expected["ra"]
    assert min(min(row) for row in found["ra"]) < 100


def test_an_ensemble_is_fine_tuned_from_members_of_another_order(
    learned: Path, other: Path, root: Path, tmp_path: Path
) -> None:
    turned = reordered(other, tmp_path / "turned", [1, 2, 0])
    weights = []
    for name, member in (("a", other), ("b", turned)):
        run = fine_tuned(tmp_path / name, root, *together(learned, member), "schedule.epochs=1")
        weights.append(checkpoint.load(run / "checkpoints" / "last.pt"))
    assert checkpoint.digest(weights[0]["model"]) == checkpoint.digest(weights[1]["model"])
    assert weights[1]["data"]["classes"] == ["cat", "dog", "emu"]
    assert judged(tmp_path / "e", f"checkpoint={tmp_path / 'b'}")["ta"] == 100


@pytest.fixture
def between(root: Path, tmp_path: Path) -> Path:
    """The set of case 1: the same cat and dog, and another class in front of them instead of one behind."""
    folder = tmp_path / "between"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            shutil.copytree(root / part / name, folder / part / name)
        shutil.copytree(root / part / "emu", folder / part / "ant")
    return folder


def test_a_set_with_another_class_is_refused_with_both_lists(
    learned: Path, other: Path, between: Path, tmp_path: Path
) -> None:
    stranger = fine_tuned(tmp_path / "stranger", between, "schedule.epochs=1")
    inside = "cat, dog, emu"
    outside = "ant, cat, dog"
    commands: list[Callable[[], Any]] = [
        lambda: judged(tmp_path / "out", f"checkpoint={learned}", *on(between)),
        lambda: judged(tmp_path / "out", *together(learned, stranger)),
        lambda: judged(tmp_path / "out", *together(learned, other), *on(between)),
        lambda: matrix(tmp_path / "out", f"sources=[{learned},{stranger}]"),
        lambda: matrix(tmp_path / "out", f"sources=[{learned}]", f"targets=[{stranger}]"),
        lambda: fine_tuned(tmp_path / "out", between, *together(learned, other)),
    ]
    for number, command in enumerate(commands):
        with pytest.raises(UserError) as caught:
            command()
        text = str(caught.value)
        assert f"[{inside}]" in text and f"[{outside}]" in text and "\n" not in text, (number, text)
        assert not (tmp_path / "out").exists()


def test_a_run_of_an_earlier_version_is_judged_in_the_order_of_the_set_and_says_so(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(learned, old)
    for file in (old / "checkpoints").glob("*.pt"):
        content = checkpoint.load(file)
        checkpoint.save(file, {key: value for key, value in content.items() if key not in ("format", "data")})
    assert judged(tmp_path / "out", f"checkpoint={old}")["ta"] == 100
    assert capsys.readouterr().out.count("holds no class names; its outputs are taken for the classes") == 1
    assert matrix(tmp_path / "m", f"sources=[{old},{learned}]")["ta"] == [100, 100]
    assert capsys.readouterr().out.count("holds no class names; its outputs are taken for the classes") == 1


def test_a_pre_trained_model_has_no_order_of_classes(learned: Path, between: Path, tmp_path: Path) -> None:
    pre = train(configure("pretrain", [*TRAINED, *on(between), f"out={tmp_path / 'pre'}"]), "pretrain")
    assert matrix(tmp_path / "m", f"sources=[{learned},{pre}]")["ta"][0] == 100


def test_pre_training_and_fine_tuning_hold_out_the_same_images_or_the_latter_is_refused(
    root: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(root, mine)
    pre = train(configure("pretrain", [*TRAINED, *on(mine), f"out={tmp_path / 'pre'}"]), "pretrain")
    copy = tmp_path / "copy"
    shutil.copytree(mine, copy)
    for changed in (mine, copy):
        picture(2, 700).save(changed / "train" / "emu" / "late.png")
    with pytest.raises(UserError) as caught:
        fine_tuned(tmp_path / "out", mine, f"init={pre}", "schedule.epochs=1")
    assert str(caught.value).startswith(f"init={pre}: the images in data.root={mine.resolve()} have changed since")
    assert "images 60, now 61" in str(caught.value) and not (tmp_path / "out").exists()
    fine_tuned(tmp_path / "out", copy, f"init={pre}", "schedule.epochs=1")  # another set, chosen on purpose

    with pytest.raises(UserError, match="have changed since it was trained on them"):
        judged(tmp_path / "e", f"checkpoint={changed_since(tmp_path, copy)}", "split=validation")
    judged(tmp_path / "e", f"checkpoint={tmp_path / 'out'}", "split=test")


def test_no_validation_on_images_that_trained_the_weights(learned: Path, root: Path, tmp_path: Path) -> None:
    """A larger share holds out images that were trained on. A smaller one is part of the first one."""
    with pytest.raises(UserError, match=r"^data\.validation=0\.3: .*/best_ra\.pt held out 0\.1 of these images"):
        judged(tmp_path / "e", f"checkpoint={learned}", "split=validation", "data.validation=0.3")
    with pytest.raises(UserError, match=r"^data\.validation=0\.3: .* set data\.validation=0\.1, or less"):
        fine_tuned(tmp_path / "t", root, f"init={learned}", "data.validation=0.3")
    assert list(tmp_path.iterdir()) == []
    assert judged(tmp_path / "e", f"checkpoint={learned}", "split=validation", "data.validation=0.05")["n"] == 3
    judged(tmp_path / "test", f"checkpoint={learned}", "data.validation=0.3")  # the test images were never trained on


def test_a_relative_folder_is_that_of_the_run_and_not_one_of_the_same_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(root, here / "set")
    tree(there / "set", ["cat", "dog", "emu"], colours=[3, 4, 5])
    monkeypatch.chdir(here)
    fine_tuned(tmp_path / "run", Path("set"))
    monkeypatch.chdir(there)
    assert judged(tmp_path / "e", f"checkpoint={tmp_path / 'run'}")["ta"] == 100
    assert result(tmp_path / "e")["made_from"]["data"]["root"] == str((here / "set").resolve())


def changed_since(folder: Path, root: Path) -> Path:
    """The run folder/out, with one of its training images removed afterwards."""
    (root / "train" / "emu" / "late.png").unlink()
    return folder / "out"


def test_weights_with_permuted_outputs_are_the_same_network(learned: Path, tmp_path: Path) -> None:
    """The helper of these tests does what it says: outputs in another order, everything else alike."""
    turned = reordered(learned, tmp_path / "turned", [2, 0, 1])
    before, after = (checkpoint.load(run / "checkpoints" / "last.pt")["model"] for run in (learned, turned))
    assert torch.equal(before["top.linear.bias"][[2, 0, 1]], after["top.linear.bias"])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"top.linear.weight", "top.linear.bias"}

"""A folder of images without class folders: pre-training reads it with both loaders, and what needs labels refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.config.schema import Data
from dist_advss.data import load_data
from dist_advss.data.betons.beton import open_beton
from dist_advss.data.image_set import NoSuchPart
from dist_advss.data.located import ffcv_missing
from dist_advss.data.sets.sources import read
from dist_advss.errors import UserError
from dist_advss.evaluation.transfer import transfer
from dist_advss.training.run import finetune, pretrain

COUNT = 50
TINY = ["attack=fgsm", "attack.eps=0.02", "model=preact_small", "model.width=8", "schedule.epochs=1"]
TINY += ["train.batch_size=20", "validation.steps=1", "validation.limit=5", "data.size=32", "data.loader=memory"]
LOADERS = [
    "memory",
    pytest.param("ffcv", marks=pytest.mark.skipif(ffcv_missing() is not None, reason="NOT TESTED: FFCV")),
]


def level(number: int, colour: int = 100) -> Image.Image:
    return Image.new("RGB", (16, 16), (number, colour, 255 - number))


@pytest.fixture(scope="module", params=[".", "train"])
def flat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of 50 images, either directly in it or in its folder `train`."""
    root = tmp_path_factory.mktemp("flat")
    (root / request.param).mkdir(exist_ok=True)
    for number in range(COUNT):
        level(number).save(root / request.param / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for part, count in (("train", 25), ("test", 5)):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                level(number, 200 * label).save(root / part / name / f"{number}.png")
    return root


def data_of(root: Path) -> Data:
    return Data(name="folder", root=str(root), size=32, classes=None, validation=0.2)


def result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "result.json").read_text()))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output and error of a command."""
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_images_without_class_folders_have_no_labels_and_no_classes(flat: Path) -> None:
    source = read(data_of(flat), "train")
    assert source.classes == []
    assert source.labels.tolist() == [-1] * COUNT
    assert source.pixels(np.arange(COUNT))[:, 0, 0, 0].tolist() == list(range(COUNT))
    with pytest.raises(NoSuchPart, match="no folder"):
        read(data_of(flat), "test")


def test_a_random_share_is_held_out_and_never_trained_on(flat: Path) -> None:
    train, held_out = (load_data(data_of(flat), split, labelled=False) for split in ("train", "validation"))
    assert (len(train), len(held_out)) == (40, 10)
    assert sorted([*train.index.tolist(), *held_out.index.tolist()]) == list(range(COUNT))
    assert held_out.index.tolist() != list(range(40, COUNT))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_needs_labels_is_refused(flat: Path, split: str) -> None:
    with pytest.raises(UserError, match="its images have no labels, and only pretrain works without"):
        load_data(data_of(flat), split, labelled=True)


@pytest.mark.parametrize("loader", LOADERS)
def test_pre_training_and_then_fine_tuning_on_labels(flat: Path, labelled: Path, tmp_path: Path, loader: str) -> None:
    words = [*TINY, "data=folder", f"data.loader={loader}", f"data.beton={tmp_path / 'betons'}", "data.validation=0.2"]
    pretrain(configure("pretrain", [*words, "objective=rotation", f"data.root={flat}", f"out={tmp_path / 'pre'}"]))
    assert result(tmp_path / "pre")["loader"] == loader
    assert torch.isfinite(torch.tensor(result(tmp_path / "pre")["last"]["ta"]))
    words = [f"sources=[{tmp_path / 'pre'}]", "split=validation", "attack=fgsm", f"data.loader={loader}"]
    transfer(configure("transfer", [*words, f"out={tmp_path / 'transfer'}"]))
    assert result(tmp_path / "transfer")["n"] == 10
    words = [*TINY, "data=folder", f"data.root={labelled}", "data.classes=2", f"init={tmp_path / 'pre'}"]
    finetune(configure("finetune", [*words, f"out={tmp_path / 'fine'}"]))
    assert result(tmp_path / "fine")["transferred"]["matched"] == result(tmp_path / "fine")["transferred"]["total"]


@pytest.mark.skipif(ffcv_missing() is not None, reason="NOT TESTED: FFCV")
def test_both_loaders_train_the_same_weights(flat: Path, tmp_path: Path) -> None:
    weights = []
    for loader in ("memory", "ffcv"):
        words = [
            *TINY,
            "data=folder",
            f"data.root={flat}",
            f"data.loader={loader}",
            f"data.beton={tmp_path / 'betons'}",
        ]
        pretrain(configure("pretrain", [*words, "objective=rotation", f"out={tmp_path / loader}"]))
        weights.append(torch.load(tmp_path / loader / "checkpoints" / "last.pt", weights_only=True)["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pre_training_on_class_folders_needs_no_number_of_classes(labelled: Path, tmp_path: Path) -> None:
    for classes in ("null", "2"):
        words = [*TINY, "data=folder", f"data.root={labelled}", f"data.classes={classes}", "objective=rotation"]
        pretrain(configure("pretrain", [*words, f"out={tmp_path / classes}"]))
    first, second = (
        torch.load(tmp_path / classes / "checkpoints" / "last.pt", weights_only=True)["model"]
        for classes in ("null", "2")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    # a run that named the number is the run that left it to the set
    pretrain(
        configure(
            "pretrain", [*TINY, "data=folder", f"data.root={labelled}", "objective=rotation", f"out={tmp_path / '2'}"]
        )
    )


def test_one_class_folder_is_enough_to_pre_train_and_too_little_to_fine_tune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set" / "train" / "all").mkdir(parents=True)
    for number in range(COUNT):
        level(number).save(tmp_path / "set" / "train" / "all" / f"{number}.png")
    words = [*TINY, "data=folder", f"data.root={tmp_path / 'set'}"]
    for classes in ("null", "1"):
        pretrain(
            configure(
                "pretrain", [*words, f"data.classes={classes}", "objective=rotation", f"out={tmp_path / classes}"]
            )
        )
        code, _, error = run(capsys, "finetune", *words, f"data.classes={classes}", f"out={tmp_path / 'fine'}")
        assert code == 2
        assert error.count("\n") == 1
        assert "has 1 folder, and finetune needs two classes or more; add a folder" in error


def test_a_missing_number_of_classes_is_in_the_message(
    labelled: Path, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        (["data=folder", f"data.root={labelled}"], f"missing; {labelled / 'train'} has 2 folders; set data.classes=2"),
        (["data=folder", f"data.root={labelled}", "data.classes=1"], "has 2 folders; set data.classes=2"),
        (
            ["data=folder", f"data.root={flat}"],
            "no class folders, so its images have no labels, and finetune needs labels",
        ),
        (["data=folder", f"data.root={flat}", "data.classes=3"], "has no class folders, so its images have no labels"),
        (["data=folder", f"data.root={tmp_path / 'gone'}"], "missing; set data.classes=N"),
        (["data=cifar10", f"data.root={tmp_path}", "data.classes=null"], "set data.classes=10"),
    ):
        code, _, error = run(capsys, "finetune", *TINY[:-2], *words, "data.loader=memory", f"out={tmp_path / 'fine'}")
        assert code == 2, error
        assert error.count("\n") == 1
        assert expected in error
    assert not (tmp_path / "fine").exists()


def test_show_and_write_work_without_labels(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=folder", f"data.root={flat}", "data.size=32"]
    code, out, _ = run(capsys, "data", "show", *words, "--png", str(tmp_path / "sheet.png"))
    assert code == 0
    assert "folder: 32x32 pixels, 3 channels, no classes" in out
    assert "images  45 of shape (32, 32, 3)" in out
    assert "45 of them unlabelled" in out
    assert "test" not in out.split()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (120 + 10 * 66, 66)
    code, out, _ = run(capsys, "data", "write", *words, f"out={tmp_path / 'betons'}")
    assert (code, out) == (0, f"{tmp_path / 'betons' / 'train.beton'}\n")
    assert open_beton(tmp_path / "betons" / "train.beton").labels.tolist() == [-1] * COUNT
    code, out, _ = run(
        capsys, "data", "show", str(tmp_path / "betons" / "train.beton"), "--png", str(tmp_path / "b.png")
    )
    assert code == 0
    assert "unlabelled" in out
    code, _, error = run(capsys, "data", "write", *words, "part=test", f"out={tmp_path / 'test.beton'}")
    assert code == 2
    assert "no folder" in error
    assert not (tmp_path / "test.beton").exists()


def test_folders_beside_images_without_labels_are_not_read_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        level(number).save(tmp_path / f"{number}.png")
    (tmp_path / "runs" / "samples").mkdir(parents=True)
    level(9).save(tmp_path / "runs" / "samples" / "a.png")
    assert len(read(data_of(tmp_path), "train").labels) == 5
    assert f"{tmp_path}: 1 folder in it, not read: runs" in capsys.readouterr().err


def test_a_flat_test_folder_has_no_labels_either(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for number in range(10):
            level(number).save(tmp_path / part / f"{number}.png")
    assert read(data_of(tmp_path), "test").labels.tolist() == [-1] * 10
    assert len(load_data(data_of(tmp_path), "test", labelled=False)) == 10
    with pytest.raises(UserError, match="no labels"):
        load_data(data_of(tmp_path), "test", labelled=True)
    # class folders in one part only
    (tmp_path / "val" / "cat").mkdir()
    level(0).save(tmp_path / "val" / "cat" / "0.png")
    with pytest.raises(UserError, match="its classes differ"):
        read(data_of(tmp_path), "test")

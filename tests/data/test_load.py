"""What a phase sees: training images without the held-out ones, then the limit, then the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data import ImageSet, load, load_data, make_loader, notes
from dist_advss.data.image_set import Source
from dist_advss.errors import UserError
from dist_advss.rng import Rng

MINI = Data(name="fashion_mini", size=28, channels=1)


@pytest.fixture
def half_labelled(monkeypatch: pytest.MonkeyPatch) -> Data:
    """A made-up set, as stl10 is: 60 labelled images, 40 unlabelled ones, 20 test images; image k is filled with k."""

    def read(data: Data, part: str, files: object) -> Source:
        labels = np.arange(20 if part == "test" else 60) % 2
        if part == "train+unlabelled":
            labels = np.concatenate([labels, np.full(40, -1)])
        return Source(
            labels, ["even", "odd"], lambda rows: np.tile(rows.astype(np.uint8)[:, None, None, None], (1, 4, 4, 1))
        )

    monkeypatch.setattr(load, "read", read)
    return Data(name="stl10", size=4, channels=1, classes=2)


def index(images: ImageSet) -> set[int]:
    return set(images.index.tolist())


def test_an_image_set_has_the_promised_types() -> None:
    images = load_data(MINI, "validation", labelled=True)
    assert (images.images.dtype, images.images.shape) == (torch.uint8, (1000, 28, 28, 1))
    assert images.images.is_contiguous()
    assert (images.labels.dtype, images.index.dtype) == (torch.int64, torch.int64)
    assert len(images) == 1000
    assert images.classes[6] == "Shirt"


def test_pixels_labels_and_index_belong_together(half_labelled: Data) -> None:
    for split in ("train", "validation", "test"):
        images = load_data(half_labelled, split, labelled=False)
        assert torch.equal(images.images[:, 0, 0, 0].long(), images.index)
        known = images.labels >= 0
        assert torch.equal(images.labels[known], images.index[known] % 2)


def test_pre_training_never_sees_the_images_that_fine_tuning_validates_on(half_labelled: Data) -> None:
    pretrain, finetune = (load_data(half_labelled, "train", labelled=labelled) for labelled in (False, True))
    held_out = [load_data(half_labelled, "validation", labelled=labelled) for labelled in (False, True)]
    assert torch.equal(held_out[0].index, held_out[1].index)
    assert not index(pretrain) & index(held_out[0])
    assert not index(finetune) & index(held_out[0])
    assert index(pretrain) == index(finetune) | set(range(60, 100))
    assert (pretrain.labels == -1).sum() == 40
    assert (finetune.labels >= 0).all()


def test_limit_and_labels_leave_the_validation_split_alone() -> None:
    whole = load_data(MINI, "validation", labelled=True)
    cut = load_data(replace(MINI, limit=50, labels=20), "validation", labelled=True)
    assert torch.equal(whole.index, cut.index)
    assert torch.equal(whole.images, cut.images)


def test_limit_takes_the_first_images_of_the_training_and_of_the_test_part() -> None:
    for split in ("train", "test"):
        whole, cut = (load_data(replace(MINI, limit=limit), split, labelled=True) for limit in (None, 130))
        assert torch.equal(whole.index[:130], cut.index)
        assert torch.equal(whole.images[:130], cut.images)


def test_a_limit_above_the_size_takes_everything() -> None:
    assert len(load_data(replace(MINI, limit=10**6), "test", labelled=True)) == 2000


def test_labels_are_balanced_nested_and_inside_the_limited_training_part() -> None:
    limited = index(load_data(replace(MINI, limit=5000), "train", labelled=False))
    sets = [load_data(replace(MINI, limit=5000, labels=n), "train", labelled=True) for n in (10, 100, 1000)]
    for images, n in zip(sets, (10, 100, 1000), strict=True):
        assert len(images) == n
        # a prefix of the training part has classes within a few images of each other
        assert np.abs(torch.bincount(images.labels).numpy() - n / 10).max() <= 1
    assert index(sets[0]) < index(sets[1]) < index(sets[2]) < limited


def test_labels_do_not_narrow_pre_training() -> None:
    assert len(load_data(replace(MINI, labels=100), "train", labelled=False)) == 9000


def test_the_first_images_are_taken_without_a_copy() -> None:
    images = load_data(MINI, "test", labelled=True)
    assert images.first(7).images.data_ptr() == images.images.data_ptr()
    assert len(images.first(7)) == 7
    assert len(images.first(None)) == 2000


def test_splits_are_the_same_at_every_call() -> None:
    first, second = (load_data(replace(MINI, labels=100), "train", labelled=True) for _ in range(2))
    assert torch.equal(first.index, second.index)


def test_another_validation_share_holds_out_another_number() -> None:
    for fraction in (0.01, 0.5):
        data = replace(MINI, validation=fraction)
        assert len(load_data(data, "validation", labelled=True)) == 10_000 * fraction
        assert len(load_data(data, "train", labelled=True)) == 10_000 * (1 - fraction)


def made_up(monkeypatch: pytest.MonkeyPatch, labels: list[int]) -> Data:
    source = Source(np.array(labels), ["a", "b"], lambda rows: np.zeros((len(rows), 4, 4, 1), np.uint8))
    monkeypatch.setattr(load, "read", lambda data, part, files: source)
    return Data(name="folder", classes=2)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_validation_split_is_refused(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    with pytest.raises(UserError, match="leaves none of the 4 training images for validation; raise it"):
        load_data(made_up(monkeypatch, [0, 1, 0, 1]), split, labelled=True)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_training_split_is_refused(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    with pytest.raises(UserError, match="leaves none of the 1 images for training; lower it"):
        load_data(replace(made_up(monkeypatch, [0]), validation=0.5), split, labelled=True)


def test_more_labels_than_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.labels=9001: more than the 9000 training images; give at most 9000"):
        load_data(replace(MINI, labels=9001), "train", labelled=True)


def test_an_unknown_split_is_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError, match="none of"):
        load_data(MINI, "dev", labelled=True)


@pytest.mark.parametrize(
    ("keys", "split", "expected"),
    [
        ({"limit": 2}, "train", "data.limit=2: leaves 1 of 3 classes without training images: rare"),
        ({"limit": 2}, "test", "data.limit=2: leaves 1 of 3 classes without test images: rare"),
        ({}, "validation", "data.validation=0.1: leaves 1 of 3 classes without held-out images: rare"),
        ({"validation": 0.5}, "validation", ""),
        ({}, "train", ""),
    ],
)
def test_classes_that_a_split_leaves_out_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], split: str, expected: str
) -> None:
    for part, counts in (("train", (30, 12, 3)), ("test", (3, 3, 3))):
        for name, count in zip(("common", "middle", "rare"), counts, strict=True):
            for number in range(count):
                file = tmp_path / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(file)
    data = Data(name="folder", root=str(tmp_path), size=8, classes=3, loader="memory", **keys)
    notes.say.cache_clear()
    for labelled in (True, True, False):
        make_loader(data, split, 1, Rng(0, "train"), labelled=labelled)
    assert capsys.readouterr().err == (f"{expected}\n" if expected else "")


def test_fewer_labels_than_classes_are_refused(half_labelled: Data) -> None:
    with pytest.raises(UserError, match=r"data\.labels=1: fewer than one label for each of the 2 classes"):
        load_data(replace(half_labelled, classes=None, labels=1), "train", labelled=True)


def test_unreadable_files_among_the_held_out_images_are_named_with_the_others(tmp_path: Path) -> None:
    for number in range(40):
        file = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image")
    data = Data(name="folder", root=str(tmp_path), size=8, classes=2)
    with pytest.raises(UserError, match=r"^40 images cannot be read, such as "):
        load_data(data, "train", labelled=True)

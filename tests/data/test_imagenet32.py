"""The downsampled ImageNet's batches are read from npz files and pickles; a pickle's code is never run."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from dist_advss.config.schema import Data
from dist_advss.data.betons.beton import open_beton
from dist_advss.data.betons.write import write_beton
from dist_advss.data.sets.fingerprint import find_files
from dist_advss.data.sets.imagenet32 import BATCHES
from dist_advss.data.sets.sources import read
from dist_advss.errors import UserError

PER_BATCH = 3


class Fake:
    """Ten training batches and the validation batch, 32x32, labels 1..1000."""

    def __init__(self, size: int = 32) -> None:
        random = np.random.default_rng(0)
        names = [*BATCHES["train"], *BATCHES["test"]]
        self.images = {n: random.integers(0, 256, (PER_BATCH, size, size, 3), np.uint8) for n in names}
        self.labels = {n: random.integers(1, 1001, PER_BATCH).tolist() for n in names}

    def content(self, name: str) -> dict:
        pixels = self.images[name].transpose(0, 3, 1, 2).reshape(PER_BATCH, -1)
        return {"data": pixels, "labels": self.labels[name], "mean": pixels.mean(0)}

    def write(self, folder: Path, form: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.images:
            if form == "npz":
                np.savez(folder / f"{name}.npz", **self.content(name))
            else:
                (folder / name).write_bytes(pickle.dumps(self.content(name), protocol=int(form)))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(name="imagenet32", root=str(tmp_path), classes=1000)


def message(data: Data) -> str:
    with pytest.raises(UserError) as caught:
        read(data, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["npz", "0", "2", "4", "5"])
@pytest.mark.parametrize("inside", [".", "Imagenet32_train"])
def test_batches_are_read_in_order_with_labels_from_zero(data: Data, tmp_path: Path, form: str, inside: str) -> None:
    fake = Fake()
    fake.write(tmp_path / inside, form)
    for part in ("train", "test"):
        source = read(data, part)
        images = np.concatenate([fake.images[name] for name in BATCHES[part]])
        labels = np.concatenate([fake.labels[name] for name in BATCHES[part]]) - 1
        assert np.array_equal(source.labels, labels)
        assert np.array_equal(source.pixels(np.arange(len(labels))), images)
        rows = np.arange(len(labels))[::-2]
        assert np.array_equal(source.pixels(rows), images[rows])


def test_pickles_of_older_numpy_are_read(data: Data, tmp_path: Path) -> None:
    """Before numpy 2 a pickle named numpy.core where it now names numpy._core."""
    fake = Fake()
    fake.write(tmp_path, "2")
    for name in fake.images:
        content = (tmp_path / name).read_bytes()
        assert b"numpy._core" in content or b"numpy.core" in content
        (tmp_path / name).write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(data, "train").labels) == 10 * PER_BATCH


class Harmful:
    """A pickle of it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.folder),))


def test_a_pickle_that_names_a_function_is_refused_and_not_run(data: Data, tmp_path: Path) -> None:
    Fake().write(tmp_path, "2")
    folder = tmp_path / "made by a pickle"
    (tmp_path / "train_data_batch_4").write_bytes(pickle.dumps({"data": Harmful(folder), "labels": []}))
    text = message(data)
    assert "mkdir" in text
    assert "only numpy arrays are allowed" in text
    assert not folder.exists()
    pickle.loads((tmp_path / "train_data_batch_4").read_bytes())
    assert folder.exists(), "the pickle would have done harm"


@pytest.mark.parametrize(
    "call", ["numpy.core.numeric\nload", "numpy\nload", "builtins\neval", "numpy._core.multiarray\nfromfile"]
)
def test_numpys_own_functions_are_no_way_round(data: Data, tmp_path: Path, call: str) -> None:
    Fake().write(tmp_path, "2")
    (tmp_path / "train_data_batch_1").write_bytes(f"c{call}\n(S'x'\ntR.".encode())
    assert "only numpy arrays are allowed" in message(data)


def test_a_missing_batch_is_named(data: Data, tmp_path: Path) -> None:
    Fake().write(tmp_path, "npz")
    (tmp_path / "train_data_batch_7.npz").unlink()
    text = message(data)
    assert "no train_data_batch_7" in text
    assert "data.download cannot" in text


def test_a_missing_root_is_named(data: Data, tmp_path: Path) -> None:
    data.root = str(tmp_path / "nowhere")
    assert message(data).startswith(f"data.root={tmp_path / 'nowhere'}: no train_data_batch_1")


@pytest.mark.parametrize("form", ["npz", "2"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_batch_is_named(data: Data, tmp_path: Path, form: str, damage: str) -> None:
    Fake().write(tmp_path, form)
    file = tmp_path / ("train_data_batch_2" + (".npz" if form == "npz" else ""))
    content = file.read_bytes()
    file.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>no</html>"}[damage])
    assert str(file) in message(data)


@pytest.mark.parametrize("form", ["npz", "0", "2", "5"])
def test_flipped_bytes_are_either_harmless_or_one_line(tmp_path: Path, form: str) -> None:
    """Whatever a damaged header says, nothing but a UserError comes out."""
    random = np.random.default_rng(int(form, 36))
    fake = Fake(8)
    fake.write(tmp_path, form)
    data = Data(name="imagenet32", root=str(tmp_path), size=8, classes=1000)
    file = tmp_path / ("val_data" + (".npz" if form == "npz" else ""))
    content = file.read_bytes()
    refusals = []
    for _ in range(150):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] = random.integers(256)
        file.write_bytes(damaged)
        try:
            read(data, "test")
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not any("\n" in text for text in refusals)


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros((2, 3072), np.uint8)},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]},
        {"data": np.zeros((2, 3, 1024), np.uint8), "labels": [1, 2]},
        {"data": "nothing", "labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": ["cat", "dog"]},
        ["data", "labels"],
    ],
    ids=["no labels", "too few labels", "floats", "wrong shape", "no array", "names as labels", "a list"],
)
def test_a_batch_of_another_content_is_named(data: Data, tmp_path: Path, content: object) -> None:
    Fake().write(tmp_path, "2")
    (tmp_path / "train_data_batch_5").write_bytes(pickle.dumps(content))
    assert "train_data_batch_5" in message(data)


def pinned(fake: Fake, *extremes: int) -> Fake:
    """The fake with labels in 1..998, apart from the extremes."""
    for number, name in enumerate(fake.labels):
        fake.labels[name] = [(13 * number + k) % 998 + 1 for k in range(PER_BATCH)]
    fake.labels["train_data_batch_1"][: len(extremes)] = extremes
    return fake


@pytest.mark.parametrize(
    ("extremes", "first"), [((1, 1000), 1), ((0, 999), 0), ((0,), 0), ((1000,), 1), ((), 1)], ids=str
)
def test_labels_that_count_from_0_or_from_1_are_recognised(
    data: Data, tmp_path: Path, extremes: tuple[int, ...], first: int
) -> None:
    fake = pinned(Fake(), *extremes)
    fake.write(tmp_path, "npz")
    for part in ("train", "test"):  # the test part has no extremes, so the training part decides
        labels = np.concatenate([fake.labels[name] for name in BATCHES[part]])
        assert np.array_equal(read(data, part).labels, labels - first)
        write_beton(data, part, tmp_path / "beton", find_files(data, part))
        assert np.array_equal(open_beton(tmp_path / "beton").labels, labels - first)
    assert read(data, "train").classes == [str(k) for k in range(1, 1001)]


@pytest.mark.parametrize("extremes", [(0, 1000), (-1, 5), (1, 1001), (0, 5000)], ids=str)
def test_labels_that_count_from_neither_are_refused_before_a_beton_is_written(
    data: Data, tmp_path: Path, extremes: tuple[int, int]
) -> None:
    pinned(Fake(), *extremes).write(tmp_path, "npz")
    assert "neither within 1..1000 nor within 0..999; correct the labels" in message(data)
    for part in ("train", "train+unlabelled"):
        with pytest.raises(UserError, match="neither within"):
            read(data, part)
    beton = tmp_path / "betons" / "train.beton"
    with pytest.raises(UserError, match="neither within"):
        write_beton(data, "train", beton, find_files(data, "train"))
    assert not list(beton.parent.glob("*.beton*"))


def test_without_data_classes_there_are_a_thousand(data: Data, tmp_path: Path) -> None:
    Fake().write(tmp_path, "npz")
    data.classes = None
    assert len(read(data, "test").classes) == 1000


def test_another_size_is_named(data: Data, tmp_path: Path) -> None:
    Fake(64).write(tmp_path, "npz")
    assert "images of 64x64 pixels; set data.size=64" in message(data)
    data.size = 64
    assert read(data, "test").pixels(np.array([1])).shape == (1, 64, 64, 3)

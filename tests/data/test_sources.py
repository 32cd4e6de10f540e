"""Each set is read as its files say, and a file or a key that is wrong gets one line.

The files are small stand-ins in the real sets' formats. What is faked: torchvision's lists of MD5 sums (they name the
stand-ins' sums) and, for downloads, its addresses (they are a small web server or a closed port of this machine).
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as tv

from dist_advss.config.schema import Data
from dist_advss.config.sets import SETS
from dist_advss.data.image_set import Source
from dist_advss.data.sets import fashion
from dist_advss.data.sets.sources import read
from tests.data.conftest import message

SHAPES = {name: (s.size, s.channels, s.classes) for name, s in SETS.items() if s.size and s.channels and s.classes}

RANDOM = np.random.default_rng(0)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def everything(source: Source) -> np.ndarray:
    return source.pixels(np.arange(len(source.labels)))


def cifar(root: Path, patch: pytest.MonkeyPatch, kind: Any, names: dict[str, list[int]], meta: str, key: str) -> dict:
    """Pickled batches of each name in `names`, with its labels; gives the images (n, 32, 32, 3) by name."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    images = {}
    for name, labels in names.items():
        images[name] = pixels(len(labels), 32, 32, 3)
        batch = {"data": images[name].transpose(0, 3, 1, 2).reshape(-1, 3072), key: labels}
        (folder / name).write_bytes(pickle.dumps(batch))
    classes = [f"class {k}" for k in range(100 if kind is tv.CIFAR100 else 10)]
    (folder / meta).write_bytes(pickle.dumps({kind.meta["key"]: classes}))
    sums = [[name, md5(folder / name)] for name in names]
    patch.setattr(kind, "train_list", sums[:-1])
    patch.setattr(kind, "test_list", sums[-1:])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / meta)})
    return images


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Data, dict]:
    names = {f"data_batch_{k}": [k, 9, 0] for k in range(1, 6)} | {"test_batch": [3, 2]}
    images = cifar(tmp_path, monkeypatch, tv.CIFAR10, names, "batches.meta", "labels")
    return Data(name="cifar10", root=str(tmp_path)), images


def test_cifar10_is_read_from_its_pickles(cifar10: tuple[Data, dict]) -> None:
    data, images = cifar10
    train, test = read(data, "train"), read(data, "test")
    assert np.array_equal(everything(train), np.concatenate([images[f"data_batch_{k}"] for k in range(1, 6)]))
    assert train.labels.tolist() == [1, 9, 0, 2, 9, 0, 3, 9, 0, 4, 9, 0, 5, 9, 0]
    assert np.array_equal(everything(test), images["test_batch"])
    assert test.labels.tolist() == [3, 2]
    assert train.classes == [f"class {k}" for k in range(10)]


def test_pixels_of_chosen_rows_come_in_the_order_of_the_rows(cifar10: tuple[Data, dict]) -> None:
    source = read(cifar10[0], "train")
    rows = np.array([7, 0, 3])
    assert np.array_equal(source.pixels(rows), everything(source)[[7, 0, 3]])


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = cifar(tmp_path, monkeypatch, tv.CIFAR100, {"train": [99, 5], "test": [0]}, "meta", "fine_labels")
    source = read(Data(name="cifar100", root=str(tmp_path), classes=100), "train")
    assert source.labels.tolist() == [99, 5]
    assert np.array_equal(everything(source), images["train"])


def test_svhn_counts_the_digit_ten_as_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(3, 32, 32, 3)
    labels = np.array([[1], [10], [9]], np.uint8)
    file = tmp_path / "train_32x32.mat"
    scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": labels})
    monkeypatch.setattr(
        tv.SVHN, "split_list", {"train": ["", file.name, md5(file)], "test": ["", "test_32x32.mat", ""]}
    )
    data = Data(name="svhn", root=str(tmp_path))
    source = read(data, "train")
    assert source.labels.tolist() == [1, 0, 9]
    assert np.array_equal(everything(source), images)
    assert "test_32x32.mat" in message(data, "test")


def test_stl10_adds_its_unlabelled_images_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    parts = {"train": pixels(4, 96, 96, 3), "unlabeled": pixels(3, 96, 96, 3), "test": pixels(2, 96, 96, 3)}
    for name, images in parts.items():
        images.transpose(0, 3, 2, 1).tofile(folder / f"{name}_X.bin")  # column by column on disk
    np.array([1, 10, 3, 3], np.uint8).tofile(folder / "train_y.bin")
    np.array([2, 9], np.uint8).tofile(folder / "test_y.bin")
    sums = {name: [name, md5(folder / name)] for name in sorted(p.name for p in folder.iterdir())}
    monkeypatch.setattr(tv.STL10, "train_list", [sums["train_X.bin"], sums["train_y.bin"], sums["unlabeled_X.bin"]])
    monkeypatch.setattr(tv.STL10, "test_list", [sums["test_X.bin"], sums["test_y.bin"]])
    data = Data(name="stl10", root=str(tmp_path), size=96)
    labelled, all_, test = read(data, "train"), read(data, "train+unlabelled"), read(data, "test")
    assert labelled.labels.tolist() == [0, 9, 2, 2]
    assert all_.labels.tolist() == [0, 9, 2, 2, -1, -1, -1]
    assert test.labels.tolist() == [1, 8]
    assert np.array_equal(everything(labelled), parts["train"])
    assert np.array_equal(everything(all_), np.concatenate([parts["train"], parts["unlabeled"]]))
    assert np.array_equal(everything(test), parts["test"])


def idx_files(folder: Path, zipped: bool, labels: list[int] | None = None, test: int = 20) -> np.ndarray:
    """The four files of Fashion-MNIST with a few images; gives the training ones."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = labels or list(range(10))
    train = pixels(len(kept), 28, 28)
    for name, array in {
        "train-images-idx3-ubyte": train,
        "train-labels-idx1-ubyte": np.array(kept, np.uint8),
        "t10k-images-idx3-ubyte": pixels(test, 28, 28),
        "t10k-labels-idx1-ubyte": np.arange(test, dtype=np.uint8) % 10,
    }.items():
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
        else:
            (folder / name).write_bytes(header + array.tobytes())
    return train


@pytest.mark.parametrize(("inside", "zipped"), [(".", True), (".", False), ("FashionMNIST/raw", True)])
def test_fashion_mnist_is_read_from_idx_files(tmp_path: Path, inside: str, zipped: bool) -> None:
    train = idx_files(tmp_path / inside, zipped)
    data = Data(name="fashion_mnist", root=str(tmp_path), size=28, channels=1)
    source = read(data, "train")
    assert np.array_equal(everything(source), train[..., None])
    assert source.labels.tolist() == list(range(10))
    assert len(read(data, "test").labels) == 20


def test_fashion_mnist_without_a_root_is_debians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(name="fashion_mnist", size=28, channels=1)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "none")
    assert "dataset-fashion-mnist" in message(data)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path)
    train = idx_files(tmp_path, True)
    assert np.array_equal(everything(read(data, "train")), train[..., None])


@pytest.mark.parametrize("damage", ["truncated gzip", "no gzip", "truncated", "another type", "empty"])
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage: str) -> None:
    zipped = "gzip" in damage
    idx_files(tmp_path, zipped)
    file = tmp_path / f"train-images-idx3-ubyte{'.gz' if zipped else ''}"
    content = file.read_bytes()
    file.write_bytes(
        {
            "truncated gzip": content[:-100],
            "no gzip": b"<html>" * 100,
            "truncated": content[:-100],
            "another type": b"\0\0\x0d" + content[3:],
            "empty": b"",
        }[damage]
    )
    text = message(Data(name="fashion_mnist", root=str(tmp_path), size=28, channels=1))
    assert str(file) in text
    assert "download it again" in text


def test_images_and_labels_of_different_lengths_are_refused(tmp_path: Path) -> None:
    idx_files(tmp_path, False)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    assert "(3,)" in message(Data(name="fashion_mnist", root=str(tmp_path), size=28, channels=1))


def test_a_label_out_of_range_is_refused(tmp_path: Path) -> None:
    idx_files(tmp_path, True, labels=[0, 1, 10, 2])
    text = message(Data(name="fashion_mnist", root=str(tmp_path), size=28, channels=1))
    assert "label 10, outside 0..9" in text
    assert "image 2" in text


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    idx_files(tmp_path, True, test=0)
    assert "empty" in message(Data(name="fashion_mnist", root=str(tmp_path), size=28, channels=1), "test")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "fashion_mnist"])
def test_a_missing_root_names_the_place_and_offers_the_download(tmp_path: Path, name: str) -> None:
    size, channels, classes = SHAPES[name]
    root = tmp_path / "nowhere"
    text = message(Data(name=name, root=str(root), size=size, channels=channels, classes=classes))
    assert text.startswith(f"data.root={root}: no ")
    assert "data.download=true" in text
    assert not root.exists()


@pytest.mark.parametrize("name", ["cifar10", "imagenet32", "folder"])
def test_no_root_at_all_is_one_line_too(name: str) -> None:
    text = message(Data(name=name, classes=1000 if name == "imagenet32" else 10))
    assert text.startswith("data.root: missing")


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("key", ["size", "channels", "classes"])
def test_a_shape_that_the_set_does_not_have_is_refused_before_anything_is_read(name: str, key: str) -> None:
    size, channels, classes = SHAPES[name]
    data = Data(name=name, root="/nowhere", download=True, size=size, channels=channels, classes=classes)
    right = getattr(data, key)
    wrong = 1 if right == 3 else right + 2
    setattr(data, key, wrong)
    assert message(data) == f"data.{key}={wrong}: {name} has {right}; set data.{key}={right}"


def test_a_file_that_fails_its_checksum_is_refused(cifar10: tuple[Data, dict]) -> None:
    data, _ = cifar10
    assert data.root is not None
    batch = Path(data.root) / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(batch.read_bytes())
    content[500] ^= 1
    batch.write_bytes(content)
    text = message(data)
    assert "fails torchvision's checksums" in text
    assert "data.download=true downloads it again" in text


def test_a_tilde_in_root_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    train = idx_files(tmp_path / "sets", True)
    source = read(Data(name="fashion_mnist", root="~/sets", size=28, channels=1), "train")
    assert np.array_equal(everything(source), train[..., None])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tv.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    text = message(Data(name="cifar10", root=str(tmp_path / "sets"), download=True))
    assert text.startswith("data.download=true: downloading cifar10 into ")
    assert "refused" in text


def test_a_download_with_the_wrong_checksum_is_refused(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    (folder / "set.tar.gz").write_bytes(b"not what was promised")
    monkeypatch.setattr(tv.CIFAR10, "url", f"{address}set.tar.gz")
    assert "corrupted" in message(Data(name="cifar10", root=str(tmp_path / "sets"), download=True))


def test_a_download_that_is_not_found_is_refused(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tv.SVHN, "split_list", {"train": [f"{served[1]}gone.mat", "train_32x32.mat", "0"]})
    assert "404" in message(Data(name="svhn", root=str(tmp_path / "sets"), download=True))


def test_a_download_is_unpacked_checked_and_read(
    cifar10: tuple[Data, dict], served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    archive = folder / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(tv.CIFAR10, "url", f"{address}set.tar.gz")
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5(archive))
    source = read(Data(name="cifar10", root=str(tmp_path / "fresh"), download=True), "test")
    assert np.array_equal(everything(source), cifar10[1]["test_batch"])


def test_fashion_mnist_is_downloaded_when_asked(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    train = idx_files(folder, True)
    monkeypatch.setattr(tv.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(tv.FashionMNIST, "resources", [(f.name, md5(f)) for f in sorted(folder.iterdir())])
    data = Data(name="fashion_mnist", root=str(tmp_path / "sets"), size=28, channels=1, download=True)
    assert np.array_equal(everything(read(data, "train")), train[..., None])

"""A set is its names and its content: where it lies, when it was written and what lies beside it do not matter."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data.betons.origin import write_betons
from dist_advss.data.identity import Identity, difference, identify
from dist_advss.data.sets import fingerprint as fingerprints
from dist_advss.data.sets.fingerprint import cache_folder, file_digests, fingerprint
from dist_advss.data.sets.imagenet32 import BATCHES
from dist_advss.errors import UserError

YEAR_2000 = 946_684_800


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read."""
    names: list[str] = []
    honest = fingerprints._sha256

    def record(path: Path) -> str:
        names.append(path.name)
        return honest(path)

    monkeypatch.setattr(fingerprints, "_sha256", record)
    return names


def bitmap(file: Path, value: int) -> None:
    """An image of one colour. Every file of this kind has the same size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(file)


@pytest.fixture
def animals(tmp_path: Path) -> Data:
    """A tree of bitmaps of one size."""
    root = tmp_path / "animals"
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                bitmap(root / part / name / f"{number}.bmp", 100 * label + number)
    return Data(name="folder", root=str(root), size=8, classes=2, loader="memory")


def let_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old enough to be known by their times, as they do two seconds after they were written."""
    monkeypatch.setattr(fingerprints, "SETTLED_S", -3600.0)


def archive_times(root: Path) -> None:
    for file in root.rglob("*"):
        os.utime(file, (YEAR_2000, YEAR_2000))


def root_of(data: Data) -> Path:
    assert data.root is not None
    return Path(data.root)


def both(data: Data) -> tuple[Identity, Identity]:
    return identify(data, "train"), identify(data, "test")


def test_an_identity_has_the_classes_in_the_order_of_the_labels_and_the_number_of_images(animals: Data) -> None:
    train, test = both(animals)
    assert (train.name, train.part, train.classes, train.images) == ("folder", "train", ["cat", "dog"], 8)
    assert (test.part, test.images, test.root) == ("test", 4, animals.root)
    assert train.fingerprint != test.fingerprint


def test_a_copy_elsewhere_with_other_times_is_the_same_set(animals: Data, tmp_path: Path) -> None:
    before = both(animals)
    copy = replace(animals, root=str(tmp_path / "elsewhere" / "copy"))
    shutil.copytree(root_of(animals), root_of(copy), copy_function=shutil.copyfile)
    (tmp_path / "link").symlink_to(root_of(animals))
    linked = replace(animals, root=str(tmp_path / "link"))
    archive_times(root_of(animals))
    for data in (copy, linked, animals):
        assert [difference(*pair) for pair in zip(before, both(data), strict=True)] == [None, None]


def test_two_releases_with_equal_names_sizes_and_times_are_two_sets(animals: Data, tmp_path: Path) -> None:
    corrected = replace(animals, root=str(tmp_path / "corrected"))
    shutil.copytree(root_of(animals), root_of(corrected))
    cat, dog = (root_of(corrected) / "train" / name / "1.bmp" for name in ("cat", "dog"))
    cat.rename(cat.with_suffix(".swap"))
    dog.rename(cat)
    cat.with_suffix(".swap").rename(dog)
    for data in (animals, corrected):
        archive_times(root_of(data))
    (old, test), (new, same_test) = both(animals), both(corrected)
    assert "fingerprint" in (difference(old, new) or "")
    assert difference(test, same_test) is None


def test_a_set_that_is_made_again_within_a_second_is_noticed(animals: Data, cache: Path) -> None:
    file = root_of(animals) / "train" / "cat" / "0.bmp"
    before = identify(animals, "train")
    times = file.stat()
    bitmap(file, 77)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert identify(animals, "train").fingerprint != before.fingerprint
    assert not (cache / "fingerprints").exists()  # too young to remember


def test_content_that_changes_under_the_same_modification_time_is_noticed_later_too(
    animals: Data, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    let_rest(monkeypatch)
    file = root_of(animals) / "train" / "cat" / "0.bmp"
    before, times = identify(animals, "train"), file.stat()
    hashed.clear()
    bitmap(file, 77)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert identify(animals, "train").fingerprint != before.fingerprint
    assert sorted(hashed) == ["0.bmp", "1.bmp", "2.bmp", "3.bmp"]  # of the folder that has changed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "train/cat/0.bmp").rename(root / "train/cat/9.bmp"), id="a file renamed"),
        pytest.param(lambda root: (root / "train/cat/0.bmp").unlink(), id="a file removed"),
        pytest.param(lambda root: bitmap(root / "train/dog/9.bmp", 1), id="a file added"),
        pytest.param(lambda root: (root / "train/cat").rename(root / "train/ant"), id="a class renamed"),
        pytest.param(lambda root: (root / "train/cat/0.bmp").rename(root / "train/dog/9.bmp"), id="another label"),
    ],
)
def test_another_name_number_or_label_is_another_set(animals: Data, change: Callable[[Path], object]) -> None:
    before = identify(animals, "train")
    change(root_of(animals))
    assert difference(before, identify(animals, "train")) is not None


def test_what_lies_beside_the_images_changes_nothing(animals: Data) -> None:
    before, root = both(animals), root_of(animals)
    write_betons(animals, root / "betons", None)
    for name in ("notes.txt", "run/result.json", "run/metrics.jsonl", "train.zip", "extra/cat/1.bmp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"notes")
    assert both(animals) == before


def imagenet32(root: Path) -> Data:
    """Batches of two images, both of one class."""
    root.mkdir(parents=True)
    for number, name in enumerate([*BATCHES["train"], *BATCHES["test"]]):
        np.savez(root / f"{name}.npz", data=np.full((2, 3 * 64), number, np.uint8), labels=np.array([1, 2]))
    return Data(name="imagenet32", root=str(root), size=8, classes=2)


def test_batches_of_imagenet32_are_known_in_any_folder_and_by_every_label(tmp_path: Path) -> None:
    data = imagenet32(tmp_path / "sets")
    before = both(data)
    inside = replace(data, root=str(tmp_path / "copy"))
    shutil.copytree(root_of(data), root_of(inside) / "Imagenet32_train")
    (root_of(data) / "notes.txt").write_text("downloaded in May")
    for again in (data, inside):
        assert [difference(*pair) for pair in zip(before, both(again), strict=True)] == [None, None]
    file = root_of(data) / "train_data_batch_3.npz"
    size = file.stat().st_size
    np.savez(file, data=np.full((2, 3 * 64), 2, np.uint8), labels=np.array([2, 2]))
    assert file.stat().st_size == size
    train, test = both(data)
    assert "fingerprint" in (difference(before[0], train) or "")
    assert difference(before[1], test) is None


def test_gzipped_and_plain_idx_files_are_two_sets(tmp_path: Path) -> None:
    data = Data(name="fashion_mnist", root=str(tmp_path), size=28, channels=1)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(name.encode())
    plain = fingerprint(data, "test", [tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte"])
    zipped = [tmp_path / f"{name}.gz" for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")]
    for file in zipped:
        file.write_bytes(gzip.compress(file.with_suffix("").read_bytes()))
    assert fingerprint(data, "test", zipped) != plain


def test_content_is_read_once(animals: Data, monkeypatch: pytest.MonkeyPatch, hashed: list[str]) -> None:
    let_rest(monkeypatch)
    before = identify(animals, "train")
    assert len(hashed) == 8
    assert identify(animals, "train") == before
    assert len(hashed) == 8
    os.utime(root_of(animals) / "train" / "dog" / "0.bmp")  # the file may be another one: its folder is read again
    assert identify(animals, "train") == before
    assert len(hashed) == 12


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"a": 1}', "[" * 100_000, '{"' + "0" * 64 + '": "' + "0" * 63 + '"}']
)
def test_a_damaged_cache_is_as_good_as_none(
    animals: Data, cache: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str], content: str
) -> None:
    let_rest(monkeypatch)
    before = identify(animals, "train")
    for entry in (cache / "fingerprints").iterdir():
        entry.write_text(content)
    assert identify(animals, "train") == before
    assert len(hashed) == 16
    assert identify(animals, "train") == before  # the cache is whole again
    assert len(hashed) == 16


def test_a_cache_that_cannot_be_written_costs_time_only(
    animals: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    let_rest(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert identify(animals, "train") == identify(animals, "train")
    assert len(hashed) == 16


def test_single_files_are_hashed_once_and_known_by_name_and_content(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_rest(monkeypatch)
    files = [tmp_path / "published" / name for name in ("fog.npy", "labels.npy")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"some bytes")
    before = file_digests("published=FOLDER", files)
    assert file_digests("published=FOLDER", files) == before
    assert hashed == ["fog.npy", "labels.npy"]
    files[0].write_bytes(b"more bytes")  # of the same size
    now = file_digests("published=FOLDER", files)
    assert [now[name] == before[name] for name in ("fog.npy", "labels.npy")] == [False, True]
    assert hashed == ["fog.npy", "labels.npy", "fog.npy"]
    with pytest.raises(UserError, match=r"snow\.npy: cannot be read"):
        file_digests("published=FOLDER", [tmp_path / "published" / "snow.npy"])


def test_a_remembered_hash_is_not_used_while_the_file_is_young(
    animals: Data, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_rest(monkeypatch)
    before = identify(animals, "train")
    (entry,) = (cache / "fingerprints").iterdir()
    entry.write_text(json.dumps(dict.fromkeys(json.loads(entry.read_text()), "0" * 64)))
    assert identify(animals, "train").fingerprint != before.fingerprint  # what is remembered counts
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert identify(animals, "train") == before


def test_a_file_that_cannot_be_read_is_one_line(animals: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root_of(animals) / "train" / "cat" / "0.bmp"

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(fingerprints, "_sha256", refuse)
    with pytest.raises(UserError, match="Permission denied") as caught:
        identify(animals, "train")
    assert str(caught.value).startswith(str(file.parent.parent))


def test_many_bytes_are_announced(
    animals: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_rest(monkeypatch)
    monkeypatch.setattr(fingerprints, "ANNOUNCED", 100)
    identify(animals, "train")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data.root={animals.root}: hashing ")
    identify(animals, "train")
    assert capsys.readouterr().err == ""


def test_without_its_source_a_set_is_known_by_its_betons(animals: Data, tmp_path: Path) -> None:
    before = both(animals)
    write_betons(animals, tmp_path / "betons", None)
    data = replace(animals, beton=str(tmp_path / "betons"))
    shutil.rmtree(root_of(animals))
    assert both(data) == before
    root_of(animals).mkdir()  # an empty folder, such as where a disk is mounted on other nodes
    assert both(data) == before
    assert [difference(*pair) for pair in zip(before, both(replace(data, root=None)), strict=True)] == [None, None]
    bitmap(root_of(animals) / "train" / "cat" / "0.bmp", 0)
    with pytest.raises(UserError, match="has 1 folder;"):
        identify(data, "train")


def test_an_included_set_is_known_by_its_checksum() -> None:
    train, test = both(Data(name="fashion_mini", size=28, channels=1))
    assert (train.images, test.images, train.root) == (10_000, 2_000, None)
    assert train.fingerprint == test.fingerprint == "16cbafb4b1d3ed20"

"""The set that ships with the package is complete, checked, balanced, and can be built again."""

from __future__ import annotations

import hashlib
import io
import lzma
from pathlib import Path

import numpy as np
import pytest

from dist_advss.config.schema import Data
from dist_advss.data import load_data
from dist_advss.data.sets import build_fashion_mini, fashion
from dist_advss.data.sets.sources import read
from dist_advss.errors import UserError

needs_source = pytest.mark.skipif(
    not (fashion.DEBIAN / "train-images-idx3-ubyte.gz").exists(),
    reason=f"Debian's dataset-fashion-mnist is not installed ({fashion.DEBIAN})",
)


def arrays(archive: bytes) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Shapes and bytes of an npz: its container differs between versions of Python, its arrays do not."""
    with np.load(io.BytesIO(archive)) as content:
        return {name: (content[name].shape, content[name].tobytes()) for name in content.files}


@pytest.fixture
def data() -> Data:
    return Data(name="fashion_mini", size=28, channels=1)


def test_it_holds_1000_and_200_images_of_each_class(data: Data) -> None:
    for part, count in (("train", 1000), ("test", 200)):
        source = read(data, part)
        assert np.bincount(source.labels).tolist() == [count] * 10
        assert source.pixels(np.arange(10 * count)).shape == (10 * count, 28, 28, 1)


def test_any_first_n_images_are_balanced(data: Data) -> None:
    for part in ("train", "test"):
        labels = read(data, part).labels
        for n in (7, 10, 99, 1000):
            counts = np.bincount(labels[:n], minlength=10)
            assert counts.max() - counts.min() <= 1


def test_no_image_is_in_both_parts(data: Data) -> None:
    parts = [read(data, part) for part in ("train", "test")]
    digests = [{hashlib.sha256(i).digest() for i in s.pixels(np.arange(len(s.labels)))} for s in parts]
    assert not digests[0] & digests[1]


def test_its_file_is_below_5_mb_and_has_the_written_checksum() -> None:
    content = fashion.MINI.read_bytes()
    assert len(content) < 5_000_000
    assert hashlib.sha256(content).hexdigest() == fashion.MINI_SHA256
    notice = fashion.MINI.with_name("FASHION_MINI.md").read_text()
    assert fashion.MINI_SHA256 in notice
    assert "Copyright © 2017 Zalando SE" in notice
    assert "Permission is hereby granted, free of charge" in notice


def test_a_damaged_file_is_refused(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(fashion.MINI.read_bytes())
    content[1_000_000] ^= 1
    copy = tmp_path / "copy.npz.xz"
    copy.write_bytes(content)
    monkeypatch.setattr(fashion, "MINI", copy)
    with pytest.raises(UserError, match="damaged, sha256"):
        load_data(data, "train", labelled=True)


def test_a_missing_file_is_refused(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "MINI", tmp_path / "gone.npz.xz")
    with pytest.raises(UserError, match="cannot be read"):
        load_data(data, "train", labelled=True)


@needs_source
def test_its_images_are_the_first_of_each_class_of_fashion_mnist(data: Data) -> None:
    full = Data(name="fashion_mnist", size=28, channels=1)
    for part, count in (("train", 1000), ("test", 200)):
        mini, source = read(data, part), read(full, part)
        images = mini.pixels(np.arange(10 * count))
        for label in (0, 6, 9):
            original = source.pixels(np.flatnonzero(source.labels == label)[:count])
            assert np.array_equal(images[mini.labels == label], original)


@needs_source
def test_the_rule_gives_its_images_again() -> None:
    assert arrays(build_fashion_mini.archive(fashion.DEBIAN)) == arrays(lzma.decompress(fashion.MINI.read_bytes()))


@pytest.mark.slow
@needs_source
def test_the_script_builds_a_file_of_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "again.npz.xz"
    monkeypatch.setattr("sys.argv", ["build_fashion_mini", "--out", str(out)])
    build_fashion_mini.main()
    assert arrays(lzma.decompress(out.read_bytes())) == arrays(lzma.decompress(fashion.MINI.read_bytes()))

"""A beton's copy on a disk of the node: its images are those of the beton, and it is made again where it is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_advss.config.schema import Data
from dist_advss.data import make_loader, node_copy
from dist_advss.data.betons.beton import Beton
from dist_advss.data.betons.stage import staged_beton
from dist_advss.data.node_copy import MANIFEST
from dist_advss.errors import RunError, UserError
from dist_advss.rng import Rng
from tests.data.conftest import find_beton, joined, noise_file


@pytest.fixture
def data(tmp_path: Path) -> Data:
    root = tmp_path / "images"
    for part in ("train", "test"):
        for number in range(6):
            noise_file(root / part / f"class{number % 2}" / f"{number}.bmp", number)
    return Data(
        name="folder",
        root=str(root),
        size=8,
        classes=2,
        validation=0.34,
        loader="ffcv",
        beton=str(tmp_path / "shared"),
        stage=str(tmp_path / "local"),
    )


@pytest.fixture
def beton(data: Data) -> Beton:
    return find_beton(data, "train")


def copy_of(data: Data, beton: Beton) -> Path:
    with staged_beton(data, beton) as here:
        assert all(np.array_equal(here.picture(k), beton.picture(k)) for k in range(len(beton)))
        return here.path


def copies(data: Data) -> list[Path]:
    return sorted(file for file in Path(data.stage or "").glob("*/*/*") if file.name != MANIFEST)


def test_the_copy_has_the_bytes_of_the_beton_and_is_made_once(
    data: Data, beton: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(data, beton)
    assert copies(data) == [copy] and copy != beton.path
    assert copy.read_bytes() == beton.path.read_bytes()
    monkeypatch.setattr(node_copy, "_make", lambda *_: pytest.fail("copied twice"))
    assert copy_of(data, beton) == copy


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def overwrite(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage", [Path.unlink, cut, overwrite])
@pytest.mark.parametrize("name", ["train.beton", MANIFEST])
def test_a_damaged_copy_is_made_again(data: Data, beton: Beton, damage: Callable[[Path], None], name: str) -> None:
    damage(copy_of(data, beton).with_name(name))
    assert copy_of(data, beton).read_bytes() == beton.path.read_bytes()


def test_another_beton_at_the_same_path_is_another_copy_and_the_old_one_is_gone(data: Data, beton: Beton) -> None:
    old = copy_of(data, beton)
    noise_file(Path(data.root or "") / "train" / "class0" / "0.bmp", 100)
    shutil.rmtree(data.beton or "")
    new = copy_of(data, find_beton(data, "train"))
    assert copies(data) == [new] != [old]


def test_images_that_are_stored_otherwise_are_another_copy(data: Data, beton: Beton) -> None:
    old = copy_of(data, beton)
    shutil.rmtree(data.beton or "")
    jpeg = replace(data, jpeg=1.0)
    new = copy_of(jpeg, find_beton(jpeg, "train"))
    assert copies(data) == [new] != [old]


def test_the_parts_have_a_copy_each(data: Data, beton: Beton) -> None:
    assert len({copy_of(data, beton), copy_of(data, find_beton(data, "test"))}) == len(copies(data)) == 2


def test_a_beton_that_is_replaced_while_it_is_copied_is_refused(
    data: Data, beton: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = find_beton(data, "test")
    monkeypatch.setattr(
        node_copy.shutil, "copyfile", lambda source, target: target.write_bytes(other.path.read_bytes())
    )
    with pytest.raises(RunError, match="have changed while they were copied"):
        copy_of(data, beton)
    assert copies(data) == []


def test_a_beton_with_damaged_images_is_refused_as_it_is_copied(data: Data, beton: Beton) -> None:
    content = bytearray(beton.path.read_bytes())
    content[int(beton.start[0])] ^= 255
    beton.path.write_bytes(content)
    with pytest.raises(UserError, match="its images fail their checksum"):
        copy_of(data, find_beton(data, "train"))
    assert copies(data) == []


def test_without_room_the_beton_is_read_where_it_is(
    data: Data, beton: Beton, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_copy.shutil, "disk_usage", lambda _: type("", (), {"free": 4})())
    assert copy_of(data, beton) == beton.path
    assert f"has no room for the images; reading from {beton.path}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(data: Data, beton: Beton, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        copy_of(replace(data, stage=str(tmp_path / "file")), beton)


@pytest.mark.usefixtures("ffcv")
def test_batches_come_from_the_copy_also_after_it_has_been_removed(data: Data, beton: Beton) -> None:
    def batches(data: Data) -> torch.Tensor:
        loader = make_loader(data, "train", 2, Rng(0), labelled=True)
        if data.stage is not None:
            (copy,) = copies(data)
            shutil.rmtree(copy.parent)  # as a job does that stages another beton of this name
        return joined(loader.epoch(0)).images

    assert torch.equal(batches(data), batches(replace(data, stage=None)))

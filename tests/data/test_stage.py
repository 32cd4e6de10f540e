"""A set's copy on a disk of the node: complete, of the set as it is now, made once, and removed when it is out of date."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dist_advss.config.schema import Data
from dist_advss.data import load_data, node_copy
from dist_advss.data.node_copy import MANIFEST
from dist_advss.data.sets.stage import staged
from dist_advss.errors import RunError, UserError
from tests.data.conftest import noise_file


@pytest.fixture
def data(tmp_path: Path) -> Data:
    root = tmp_path / "shared" / "images.v2"
    for part in ("train", "test"):
        for number in range(4):
            noise_file(root / part / f"class{number % 2}" / f"{number}.bmp", number)
    (root / "notes.txt").write_text("beside the images")
    return Data(name="folder", root=str(root), size=8, classes=2, validation=0.5, stage=str(tmp_path / "local"))


def copy_of(data: Data) -> Path:
    """The folder from which the images are read."""
    with staged(data, "train") as (here, files):
        assert files is not None and len(files) == 4 and all(file.is_relative_to(here.root or "") for file in files)
        return Path(here.root or "")


def copies(data: Data) -> list[Path]:
    return [folder for folder in Path(data.stage or "").glob("*/*") if folder.is_dir()]


def pixels(data: Data) -> np.ndarray:
    return load_data(data, "train", labelled=True).images.numpy()


def test_the_images_of_both_parts_are_copied_once_and_nothing_else(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_of(data)
    inside = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()} - {MANIFEST}
    assert inside == {f"{part}/class{n % 2}/{n}.bmp" for part in ("train", "test") for n in range(4)}
    assert np.array_equal(pixels(data), pixels(replace(data, stage=None)))
    monkeypatch.setattr(node_copy, "_make", lambda *_: pytest.fail("copied twice"))
    assert copy_of(data) == copy


@pytest.mark.parametrize("written", ["~/disk", "$NODE_DISK/disk", "${NODE_DISK}/disk"])
def test_the_folder_may_be_below_the_home_folder_or_a_variable(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "here"))
    assert copy_of(replace(data, stage=written)).is_relative_to(tmp_path / "here" / "disk")


def test_new_images_under_the_old_names_are_read_and_the_old_copy_is_gone(data: Data) -> None:
    old = copy_of(data)
    for file in Path(data.root or "").rglob("*.bmp"):
        facts = file.stat()
        noise_file(file, 100 + int(file.stem), (facts.st_atime_ns, facts.st_mtime_ns))
    assert np.array_equal(pixels(data), pixels(replace(data, stage=None)))
    new = copy_of(data)
    assert copies(data) == [new] != [old]


def test_a_copy_that_another_run_reads_stays(data: Data) -> None:
    with staged(data, "train") as (held, _):
        noise_file(Path(data.root or "") / "train" / "class0" / "0.bmp", 100)
        assert len(copies(data)) == 1
        new = copy_of(data)
        assert sorted(copies(data)) == sorted([new, Path(held.root or "")])
    noise_file(Path(data.root or "") / "train" / "class0" / "0.bmp", 101)
    newest = copy_of(data)
    assert copies(data) == [newest]


def test_sets_of_other_folders_keep_their_copies(data: Data, tmp_path: Path) -> None:
    other = replace(data, root=str(tmp_path / "elsewhere" / "images.v2"))
    shutil.copytree(data.root or "", other.root or "")
    mine, theirs = copy_of(data), copy_of(other)
    assert mine != theirs
    assert sorted(copies(data)) == sorted([mine, theirs])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def overwrite(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage", [Path.unlink, cut, overwrite])
@pytest.mark.parametrize("name", ["train/class0/0.bmp", "test/class1/3.bmp", MANIFEST])
def test_a_damaged_copy_is_made_again(data: Data, damage: Callable[[Path], None], name: str) -> None:
    damage(copy_of(data) / name)
    assert np.array_equal(pixels(data), pixels(replace(data, stage=None)))
    copy = copy_of(data)
    assert (copy / "train/class0/0.bmp").read_bytes() == (Path(data.root or "") / "train/class0/0.bmp").read_bytes()


def test_a_copy_that_was_cut_short_is_made_again(data: Data) -> None:
    copy = copy_of(data)
    shutil.copytree(copy, partial := copy.with_name(f"{copy.name}.partial"))
    shutil.rmtree(copy)
    (partial / "train" / "class0" / "0.bmp").write_bytes(b"")
    assert np.array_equal(pixels(data), pixels(replace(data, stage=None)))
    assert copies(data) == [copy]


def test_a_set_that_changes_while_it_is_copied_is_refused(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = shutil.copyfile

    def replaced(source: Path, target: Path) -> object:
        done = honest(source, target)
        return target.write_bytes(b"new") if source.name == "2.bmp" else done

    monkeypatch.setattr(node_copy.shutil, "copyfile", replaced)
    with pytest.raises(RunError, match="have changed while they were copied"):
        copy_of(data)
    assert copies(data) == []


def test_processes_that_start_together_make_one_copy(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], node_copy._make

    def record(*arguments: object) -> None:
        made.append(arguments)
        make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(node_copy, "_make", record)
    threads = [threading.Thread(target=copy_of, args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_without_room_the_set_is_read_where_it_is(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_copy.shutil, "disk_usage", lambda _: type("", (), {"free": 4})())
    assert copy_of(data) == Path(data.root or "")
    assert "has no room" in capsys.readouterr().err
    threads = [threading.Thread(target=copy_of, args=(data,), daemon=True) for _ in range(2)]  # none waits for another
    with staged(data, "train"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def test_an_old_copy_makes_room_for_the_new_one(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    old = copy_of(data)
    noise_file(Path(data.root or "") / "train" / "class0" / "0.bmp", 100)
    monkeypatch.setattr(
        node_copy.shutil, "disk_usage", lambda _: type("", (), {"free": 0 if old.exists() else 10**9})()
    )
    new = copy_of(data)
    assert copies(data) == [new] != [old]


def test_a_set_without_a_test_part_can_be_staged(data: Data) -> None:
    shutil.rmtree(Path(data.root or "") / "test")
    assert len(json.loads((copy_of(data) / MANIFEST).read_text())) == 4


def test_a_folder_that_is_none_is_one_line(data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        copy_of(replace(data, stage=str(tmp_path / "file")))
    with pytest.raises(UserError, match="a variable that is not set"):
        copy_of(replace(data, stage="$NO_SUCH_VARIABLE"))


def test_nothing_is_copied_unasked(data: Data, tmp_path: Path) -> None:
    assert len(pixels(replace(data, stage=None))) == 2
    assert not (tmp_path / "local").exists()

"""A set's copy on a disk of the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_advss.config.schema import Data
from dist_advss.data.sets import stage
from dist_advss.data.sets.stage import staged
from dist_advss.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "images"
    (folder / "train" / "cat").mkdir(parents=True)
    (folder / "train" / "cat" / "1.jpg").write_bytes(b"jpeg")
    return folder


def test_a_set_is_copied_once_and_read_from_there(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "local"))
    first = staged(Data(name="folder", root=str(root), stage="$NODE_DISK"))
    assert first.root is not None and Path(first.root).is_relative_to(tmp_path / "local")
    assert (Path(first.root) / "train" / "cat" / "1.jpg").read_bytes() == b"jpeg"
    monkeypatch.setattr(stage, "_copy", lambda *_: pytest.fail("copied twice"))
    assert staged(Data(name="folder", root=str(root), stage="$NODE_DISK")).root == first.root


def test_without_room_the_set_is_read_where_it_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: type("", (), {"free": 4})())
    assert staged(Data(name="folder", root=str(root), stage=str(tmp_path / "local"))).root == str(root)
    assert "do not fit" in capsys.readouterr().out


def test_a_copy_that_was_cut_short_is_made_again(root: Path, tmp_path: Path) -> None:
    data = Data(name="folder", root=str(root), stage=str(tmp_path / "local"))
    copy = Path(staged(data).root or "")
    copy.rename(copy.with_suffix(".partial"))
    (copy.with_suffix(".partial") / "train" / "cat" / "1.jpg").write_bytes(b"jp")
    assert (Path(staged(data).root or "") / "train" / "cat" / "1.jpg").read_bytes() == b"jpeg"


def test_a_folder_that_is_none_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        staged(Data(name="folder", root=str(root), stage=str(tmp_path / "file")))
    with pytest.raises(UserError, match="a variable that is not set"):
        staged(Data(name="folder", root=str(root), stage="$NO_SUCH_VARIABLE"))


def test_nothing_is_copied_unasked(root: Path) -> None:
    assert staged(Data(name="folder", root=str(root))).root == str(root)

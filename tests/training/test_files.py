"""A file is written as a whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from dist_advss.errors import RunError
from dist_advss.files import remove_leftovers, write_json, write_text, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
def test_an_exception_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def half(file: BinaryIO) -> None:
        file.write(b"new, but not all of it")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("enforce fail\nat line 2")])
def test_what_the_system_refuses_is_one_line_that_names_the_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def refused(file: BinaryIO) -> None:
        raise error

    with pytest.raises(RunError) as caught:
        write_whole(path, refused)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(f"{path}: could not be written (")
    assert str(error.args[-1]).splitlines()[0] in text
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_reason_is_the_systems_even_when_another_error_covers_it(tmp_path: Path) -> None:
    def covered(file: BinaryIO) -> None:
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 26304 vs 26200")

    with pytest.raises(RunError, match=r"could not be written \(No space left on device\)"):
        write_whole(tmp_path / "file", covered)


def test_a_place_that_cannot_be_a_folder_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="could not be written"):
        write_text(tmp_path / "file" / "below", "text")


def test_the_old_content_stands_under_the_name_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    seen = []

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_text())

    write_whole(path, write)
    assert (seen, path.read_text(), names(tmp_path)) == (["old"], "new", ["file"])


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        order.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_text(tmp_path / "file", "text")
    assert order == ["sync file", "rename", "sync folder"]


def test_folders_are_made_and_text_and_json_come_back(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "text", "µ→∞")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "µ→∞"
    content = {"ra": 56.25, "names": ["ü", None], "deep": {"n": 3}}
    write_json(tmp_path / "a" / "json", content)
    assert json.loads((tmp_path / "a" / "json").read_text()) == content


def test_what_a_killed_process_left_of_a_file_is_removed_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".file.4711.tmp").write_text("half")
    (tmp_path / ".other.4711.tmp").write_text("half")
    write_text(tmp_path / "file", "new")
    assert names(tmp_path) == [".other.4711.tmp", "file"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write_both(file: BinaryIO) -> None:
        file.write(b"outer")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 4711)
            write_text(path, "inner")
        assert path.read_text() == "inner"

    write_whole(path, write_both)
    assert path.read_text() == "outer"
    assert names(tmp_path) == ["file"]


def test_two_processes_of_one_pid_do_not_write_into_one_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers
    used: list[str] = []
    for _ in range(2):
        write_whole(tmp_path / "file", lambda file: used.append(file.name))
    assert used[0] != used[1]
    for name in used:  # what a killed process leaves is still found
        Path(name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]

"""The processes of a node hold a set of images once. A thread stands for a process: each opens the lock by itself."""

from __future__ import annotations

import fcntl
import shutil
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dist_advss.data import ImageSet, share
from dist_advss.data.share import on_node
from dist_advss.errors import UserError

PROCESSES = 3


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Memory and disk of the node, both empty."""
    found = [tmp_path / "memory", tmp_path / "disk"]
    for place in found:
        place.mkdir()
    monkeypatch.setattr(share, "IN_MEMORY", found[0])
    monkeypatch.setattr("tempfile.tempdir", str(found[1]))
    return found


class Node:
    """Processes that all ask for the same images, of which they count how often they are made."""

    def __init__(self, error: str | None = None) -> None:
        self.made = 0
        self.error = error
        self.all_have_them = threading.Barrier(PROCESSES)

    def make(self) -> ImageSet:
        self.made += 1
        if self.error:
            raise UserError(self.error)
        images = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3)
        return ImageSet(images, torch.tensor([1, 0]), torch.tensor([5, 7]), ["cat", "dog"])

    def process(self, _: int) -> ImageSet | str:
        with on_node("run") as once:
            try:
                return once("train", self.make)
            except UserError as error:
                return str(error)
            finally:
                self.all_have_them.wait(60)

    def run(self) -> list[ImageSet | str]:
        with ThreadPoolExecutor(PROCESSES) as pool:
            return list(pool.map(self.process, range(PROCESSES)))


def files(places: list[Path]) -> list[str]:
    return sorted(file.name for place in places for file in place.rglob("*") if file.is_file())


def test_one_process_makes_the_images_for_all_and_no_file_stays(places: list[Path]) -> None:
    node = Node()
    expected = node.make()
    for found in node.run():
        assert isinstance(found, ImageSet)
        assert all(map(torch.equal, list(vars(found).values())[:3], list(vars(expected).values())[:3]))
        assert found.classes == expected.classes
    assert node.made == 2  # one was for the comparison
    assert files(places) == []


def test_an_error_of_the_process_that_reads_is_an_error_of_all(places: list[Path]) -> None:
    node = Node("data.root=x: 3 files are damaged")
    assert node.run() == ["data.root=x: 3 files are damaged"] * PROCESSES
    assert node.made == 1
    assert files(places) == []


def test_a_disk_that_fills_up_ends_the_process_that_writes_and_the_others_do_not_wait_for_it(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, [0]

    def full_once(content: object, file: Path) -> None:
        calls[0] += 1
        if calls[0] == 1:
            file.write_bytes(b"some")
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full_once)
    node = Node()
    found = node.run()  # whose barrier none would pass if one kept the lock
    (error,) = [one for one in found if isinstance(one, str)]
    assert "images cannot be shared there" in error
    assert node.made == 2
    assert files(places) == []


def test_processes_that_share_the_lock_and_not_the_memory_make_their_own(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, apart = Node(), iter(range(PROCESSES))

    def own_memory() -> list[Path]:
        private = places[0] / str(next(apart))
        private.mkdir()
        return [private, places[1]]

    monkeypatch.setattr(share, "_places", own_memory)
    assert all(isinstance(found, ImageSet) for found in node.run())
    assert node.made == PROCESSES
    assert files(places) == []


@pytest.mark.parametrize(("free", "made"), [((0, 10**9), 1), ((0, 0), PROCESSES)])
def test_without_room_in_memory_the_disk_is_used_and_without_room_there_each_has_its_own(
    places: list[Path], monkeypatch: pytest.MonkeyPatch, free: tuple[int, int], made: int
) -> None:
    usage = namedtuple("usage", "total used free")
    room = dict(zip(places, free, strict=True))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, room[Path(place).parent]))
    node = Node()
    assert all(isinstance(found, ImageSet) for found in node.run())
    assert node.made == made
    assert files(places) == []


def test_what_a_killed_run_has_left_is_removed_and_that_of_a_living_one_is_not(places: list[Path]) -> None:
    Node().run()  # makes the folders
    memory, disk = [next(place.iterdir()) for place in places]
    for name in ("killed-train", "living-train"):
        (memory / f"{name}.images").write_text("")
        (memory / f"{name}.0.partial").write_text("")
        (disk / f"{name}.lock").write_text("")
    with (disk / "living-train.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        Node().run()
    assert files(places) == ["living-train.0.partial", "living-train.images", "living-train.lock"]

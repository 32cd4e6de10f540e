"""Images that the processes of one node hold in memory once: the first one reads them, the others map its file.

The file is in memory (/dev/shm), or in the folder for temporary files (TMPDIR) where that has no room. Its name is removed as
soon as all processes of the run have mapped it. So the memory is free when the last of them ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from ..errors import UserError
from .image_set import ImageSet

IN_MEMORY = Path("/dev/shm")
SPARE = 1.1  # free bytes that a place must have for each byte of images

Make = Callable[[], ImageSet]
Once = Callable[[str, Make], ImageSet]


def by_itself(name: str, make: Make) -> ImageSet:
    """The images of a process that shares them with no other."""
    return make()


@contextlib.contextmanager
def on_node(run: str | None) -> Iterator[Once]:
    """Yields `once(name, make)`: `make()` in the first process of the node that calls it, the same images in all of them.

    `run` is a name that the processes of this run have and those of no other; None for a process that shares with nobody.
    Leave the context when all processes have their images. A UserError of `make` is raised in each process of the node.
    Where no place can be written or has room for the file, or a process does not see it, each makes its own images. Raises
    UserError where the disk fills up meanwhile.
    """
    if run is None:
        yield by_itself
        return
    with contextlib.ExitStack() as held:

        def once(name: str, make: Make) -> ImageSet:
            places = _places()
            if not places:
                return make()
            shared = Shared(f"{run}-{name}", places)
            held.callback(shared.remove)
            lock = held.enter_context(shared.lock.open("ab"))
            shared.hold(lock, make)
            return shared.images() or make()

        yield once


class Shared:
    """The file with one set of images, in the first of `places` that has room, and its lock.

    A process that reads images and writes them holds the lock alone. It shares it once the file is complete, and keeps it
    until it leaves. The lock's file is not empty then: processes in containers may share it and not the other places.
    """

    def __init__(self, name: str, places: list[Path]) -> None:
        self.places = places
        self.files = [place / f"{name}.images" for place in places]
        self.lock = self.files[-1].with_suffix(".lock")
        self._own: ImageSet | None = None  # what this process has read, where there was no room for it

    def hold(self, lock: BinaryIO, make: Make) -> None:
        """Returns with a shared lock when the file is complete. This process makes it if no other does."""
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _complete(lock):
                    self._remove_older()
                    try:
                        self._write(make)
                    except BaseException:
                        fcntl.flock(lock, fcntl.LOCK_UN)  # this process now waits for the others, and they for the lock
                        raise
                    os.ftruncate(lock.fileno(), 1)  # takes no room on a full disk
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for the process that makes it
            if _complete(lock):
                return
            fcntl.flock(lock, fcntl.LOCK_UN)  # that process failed or was killed, and another one may make it
            time.sleep(0.1)

    def images(self) -> ImageSet | None:
        """The mapped images; without a file, those that this process has read, or None. Raises the reader's UserError."""
        file = next((file for file in self.files if file.exists()), None)
        if file is None:
            return self._own
        content = torch.load(file, mmap=True, weights_only=True)
        if "error" in content:
            raise UserError(content["error"])
        return ImageSet(**content) if content else self._own

    def remove(self) -> None:
        partial = [file for images in self.files for file in images.parent.glob(f"{images.stem}.*.partial")]
        for file in (*self.files, *partial, self.lock):
            file.unlink(missing_ok=True)

    def _write(self, make: Make) -> None:
        """Gives the file its name when it is complete. It is empty where no place has room for the images."""
        content: dict[str, object]
        try:
            images = make()
            content = vars(images).copy()
            room = 1 + SPARE * sum(part.nbytes for part in content.values() if isinstance(part, torch.Tensor))
        except UserError as error:
            content, room = {"error": str(error)}, 0.0
        fit = [file for file in self.files if shutil.disk_usage(file.parent).free > room]
        if not fit and "error" not in content:
            content, self._own = {}, images
        target = (fit or self.files)[0]
        partial = target.with_suffix(f".{secrets.token_hex(4)}.partial")
        try:
            torch.save(content, partial)
            partial.rename(target)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            partial.unlink(missing_ok=True)
            raise _unusable(target.parent) from error

    def _remove_older(self) -> None:
        """Removes the files of runs that were killed before all their processes had mapped them."""
        for lock in self.lock.parent.glob("*.lock"):
            with contextlib.suppress(OSError), lock.open("ab") as other:
                if lock != self.lock:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Shared(lock.stem, self.places).remove()


def _complete(lock: BinaryIO) -> bool:
    return os.fstat(lock.fileno()).st_size > 0


def _places() -> list[Path]:
    """The folders dist_advss-UID in memory and on the disk that only this user can write, as far as there are any."""
    places = []
    for parent in (IN_MEMORY, Path(tempfile.gettempdir())):
        folder = parent / f"dist_advss-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            facts = folder.lstat()
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
                places.append(folder)
    return places


def _unusable(place: Path) -> UserError:
    return UserError(
        f"{place}: images cannot be shared there between the processes of this node; make room, or set TMPDIR"
    )

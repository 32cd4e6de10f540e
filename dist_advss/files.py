"""Files that are whole or absent (write to a temporary name, sync, rename), and folders that one process has at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .errors import RunError, UserError


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """`write(file)` fills the file that then takes the name `path` at once; a crash or a full disk leaves the old one.

    Raises RunError in one line when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise RunError(
            f"{path}: could not be written ({_reason(error)}); what was there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it is there only when something went wrong
            temporary.unlink()


def _reason(error: BaseException) -> str:
    """What the system said: torch raises an error of its own while it handles that one."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """`content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def only_process(folder: Path, name: str, in_use: Callable[[str], str]) -> Iterator[TextIO]:
    """`folder`, made where it is missing, for this process alone; yields the lock file `name` in it.

    The lock goes with its process, however that ends. Raises UserError when the folder cannot be written or locked, or
    when another process has it: `in_use` makes that clause from what the other one wrote into the lock file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / name).open("a+")
    except OSError as error:
        raise UserError(f"out={folder}: cannot be written ({error.strerror}); choose a folder of yours") from error
    with lock:
        try:
            _take(lock)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(f"out={folder}: {in_use(lock.read().strip())}") from error
        except OSError as error:
            raise UserError(
                f"out={folder}: cannot be locked ({error.strerror}); choose a folder on another disk"
            ) from error
        yield lock


def _take(lock: TextIO) -> None:
    """Locks the file. Raises BlockingIOError when another process has it for longer than a look of `locked` takes."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.01)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def locked(file: Path) -> bool:
    """Whether a process on any machine that shares the disk holds this lock file; False where the disk has no locks."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: readers do not disturb one another
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False

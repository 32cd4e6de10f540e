"""Atomic writes of files (temporary name, sync, rename), and folders that one process locks at a time."""

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
    """Writes `path` atomically: after a crash or on a full disk, the old file is still there. `write(file)` fills the new one.

    Raises RunError with one line when the disk is full or the folder cannot be written.
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
        raise RunError(f"{path}: could not be written ({_reason(error)}); an older file there is unchanged") from error
    finally:
        with contextlib.suppress(OSError):  # it exists only after an error
            temporary.unlink()


def _reason(error: BaseException) -> str:
    """The message of the operating system, which torch wraps in another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically. Raises RunError as `write_whole` does."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically. Raises RunError as `write_whole` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def only_process(folder: Path, name: str, in_use: Callable[[str], str]) -> Iterator[TextIO]:
    """Locks `folder` for this process, and creates it when it is missing. Yields the lock file `name` in it.

    The operating system releases the lock when the process ends, even when it crashes. Raises UserError when the folder
    cannot be written or locked, or when another process holds the lock. `in_use` makes the message from the text that the
    other process wrote into the lock file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / name).open("a+")
    except OSError as error:
        raise UserError(
            f"out={folder}: cannot be written ({error.strerror}); choose a folder that you can write"
        ) from error
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
    """Locks the file. Raises BlockingIOError when another process holds it for longer than a call of `locked` takes."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.01)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def locked(file: Path) -> bool:
    """Whether a process on any machine that shares the disk holds this lock file; False where the disk has no locks."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that several readers do not block each other
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False

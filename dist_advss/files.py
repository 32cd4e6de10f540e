"""Atomic writes of files (temporary name, sync, rename), bounded reads, and folders that one process locks at a time.

A folder may come from somebody else. So the files in it are read only if they are regular files of a plausible size, and a
link among them is never written through: `write_whole` replaces the link, `open_own` refuses it. Only a file that the user
names is written where its link leads (`named_file`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .errors import RunError, UserError

LARGEST_TEXT = 16 * 2**20  # bytes of a configuration, an experiment or a result; they have a few thousand


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """The text of a UTF-8 file. Raises OSError as `read_bytes` does, and ValueError for other bytes."""
    return read_bytes(path, largest).decode()


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a regular file. Raises OSError for a missing one, a device, a pipe, or more than `largest` bytes."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > largest:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than {largest:,}", str(path))
        return file.read(largest + 1)


def open_own(path: Path, mode: str, buffering: int = -1) -> Any:
    """Opens a file in a run or launch folder to write to it, and creates it when it is missing; arguments as of `open`.

    Raises OSError where the name is a link, a device or a pipe: writing there could change a file outside the folder.
    """
    opened = open(  # noqa: SIM115 - the caller closes it
        path, mode, buffering, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    )
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return opened


def named_file(option: str, file: Path) -> Path:
    """The file that a user named with `option` (such as "-o"), where its link leads if it is one.

    Raises UserError for what is no regular file, such as a folder or a device.
    """
    target = file
    try:
        target = Path(os.path.realpath(file))
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{option} {file}: cannot be written ({reason}); give the path of a file") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link to itself", stat.S_IFIFO: "a pipe"}
        kind = kinds.get(stat.S_IFMT(mode), "a device or socket")
        raise UserError(f"{option} {file}: {kind}, not a file; give the path of a file")
    return target if os.path.islink(file) else file


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes `path` atomically: after a crash or on a full disk, the old file is still there. `write(file)` fills the new one.

    Removes the temporary files that killed processes left of `path`.
    Raises RunError with one line when the disk is full or the folder cannot be written.
    """
    # Processes of two containers or nodes may have one pid, and would truncate each other's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_locked(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
        remove_leftovers(path.parent, glob.escape(path.name))
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise RunError(f"{path}: could not be written ({_reason(error)}); an older file there is unchanged") from error
    finally:
        with contextlib.suppress(OSError):  # it exists only after an error
            temporary.unlink()


def write_new(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes and syncs a file whose folder still has a temporary name. `write(file)` fills it.

    Unlike `write_whole` it lists no folder, which would take long where a thousand processes write into one.
    Raises RunError with one line when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise RunError(f"{path}: could not be written ({_reason(error)})") from error


def _open_locked(temporary: Path) -> BinaryIO:
    """Opens a new file and locks it until it is closed, which shows other processes that it is still being written."""
    while True:
        file = temporary.open("wb")
        with contextlib.suppress(OSError):  # a file system without locks: leftovers stay there
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # another process removed it just before it was locked


def remove_leftovers(folder: Path, names: str = "*") -> None:
    """Removes the temporary files in `folder` that killed processes left of files called `names`, a pattern."""
    for leftover in folder.glob(f".{names}.[0-9]*.tmp"):
        with contextlib.suppress(OSError), leftover.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


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


def locks_elsewhere() -> str | None:
    """The folder of all lock files, where they are not in the folders that they stand for."""
    return os.environ.get("DIST_ADVSS_LOCKS") or None


def lock_file(folder: Path, name: str) -> Path:
    """The file whose lock stands for `folder`: `name` in it, or a file in the folder DIST_ADVSS_LOCKS, for disks without locks.

    Every machine that works in `folder` must have the same DIST_ADVSS_LOCKS, on a disk that they share.
    """
    elsewhere = locks_elsewhere()
    if not elsewhere:
        return folder / name
    return Path(elsewhere) / f"{hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:16]}{name}"


@contextlib.contextmanager
def only_process(folder: Path, name: str, in_use: Callable[[str], str]) -> Iterator[TextIO]:
    """Locks `folder` for this process, and creates it when it is missing. Yields the lock file `name` in it.

    The operating system releases the lock when the process ends, even when it crashes. Raises UserError when the folder
    cannot be written or locked, or when another process holds the lock. `in_use` makes the message from the text that the
    other process wrote into the lock file.
    """
    path = lock_file(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open_own(path, "a+")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        file = f" in {path.name}" if isinstance(error, OSError) and error.filename == str(path) else ""
        raise UserError(
            f"out={folder}: cannot be written ({reason}{file}); choose a folder that you can write"
        ) from error
    with lock:
        try:
            _take(lock)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(f"out={folder}: {in_use(lock.read().strip())}") from error
        except OSError as error:
            raise UserError(
                f"out={folder}: cannot be locked ({error.strerror}); choose a folder on another disk, or set DIST_ADVSS_LOCKS "
                "to a folder that can be locked and that all machines see, such as one in your home"
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
    if file.name.endswith(".lock"):
        file = lock_file(file.parent, file.name)
    try:
        with open(file, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that several readers do not block each other
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False

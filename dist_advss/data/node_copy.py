"""Copies of files on a local disk of the node (data.stage). The first process of the node makes the copy.

The name of a copy contains an identity of its content, so another content is another copy. A process that reads a copy holds
a shared lock on it. One that makes or removes it holds an exclusive lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..errors import RunError, UserError
from ..text import printable

MANIFEST = ".dist_advss.json"  # in a complete copy: name, size and time of change of each file
THREADS = 8  # files that are copied at a time


@dataclass(frozen=True)
class Original:
    """What is copied.

    key:     the key that names it and its value, for messages: "data.root=IMAGES"
    place:   its path
    content: an identity of its content, of any length
    files:   each file by its path inside the copy
    is_same: whether the copy in a folder has this content, by reading all of it
    """

    key: str
    place: Path
    content: str
    files: Mapping[Path, Path]
    is_same: Callable[[Path], bool]


@contextlib.contextmanager
def node_copy(stage: str, original: Original) -> Iterator[Path | None]:
    """The folder of the copy below `stage`, made if there is none, and kept until the context ends; None where it has no room.

    The other processes of the node wait for it. Raises UserError where `stage` cannot be written, RunError where the files
    change while they are copied.
    """
    copy = _place_of(stage, original)
    with contextlib.ExitStack() as held:
        try:
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = held.enter_context(_lock_of(copy).open("a"))
            here = _hold(lock, copy, original)
        except OSError as error:
            raise UserError(f"data.stage={stage}: cannot be written ({error.strerror}); give another folder") from error
        yield copy if here else None


def _place_of(stage: str, original: Original) -> Path:
    """The folder of the copy: the name of the original, its place, and its content."""
    folder = os.path.expanduser(os.path.expandvars(stage))
    if "$" in folder:
        raise UserError(
            f"data.stage={stage}: contains a variable that is not set on this node; give a folder, or remove data.stage"
        )
    place = original.place.expanduser().resolve()
    name = "-".join([place.name, _digest(str(place))[:12], _digest(original.content)[:16]])
    return Path(folder) / f"dist_advss-{os.getuid()}" / name


def _hold(lock: TextIO, copy: Path, original: Original) -> bool:
    """Waits for a complete copy, which is made if there is none, and holds it. False where it does not fit."""
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_complete(copy, original.files):
            return True
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete(copy, original.files):
            shutil.rmtree(copy, ignore_errors=True)
            if not _fits(copy, original.files):
                _remove_older(copy)
                if not _fits(copy, original.files):
                    fcntl.flock(lock, fcntl.LOCK_UN)
                    line = f"data.stage: {copy.parent} has no room for the images; reading from {original.place}"
                    print(printable(line), file=sys.stderr)
                    return False
            _make(copy, original)
            _remove_older(copy)


def _is_complete(copy: Path, names: Mapping[Path, Path]) -> bool:
    """Whether the copy has all files, each as it was written."""
    try:
        written: dict[str, Any] = json.loads((copy / MANIFEST).read_text())
        return len(written) == len(names) and all(written[str(name)] == _state(copy / name) for name in names)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _state(file: Path) -> list[int]:
    """Size in bytes and time of the last change in ns, which nothing sets back."""
    facts = file.stat()
    return [facts.st_size, facts.st_ctime_ns]


def _fits(copy: Path, names: Mapping[Path, Path]) -> bool:
    return sum(file.stat().st_size for file in names.values()) <= 0.9 * shutil.disk_usage(copy.parent).free


def _make(copy: Path, original: Original) -> None:
    """Copies the files, and gives the copy its name once it is complete and has the content of the original."""
    partial = copy.with_name(f"{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    names = original.files
    try:
        for folder in {partial / name.parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda name: shutil.copyfile(names[name], partial / name), names):
                pass
        if not original.is_same(partial):
            raise RunError(f"{original.key}: its files have changed while they were copied; start again")
        (partial / MANIFEST).write_text(json.dumps({str(name): _state(partial / name) for name in names}))
        partial.rename(copy)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_older(copy: Path) -> None:
    """Removes the copies of what the same place contained before, unless a process reads them."""
    prefix = copy.name.rpartition("-")[0]
    for older in copy.parent.glob(f"{prefix}-*"):
        if older == copy or older.suffix == ".lock":
            continue
        whole = older.with_name(older.name.removesuffix(".partial"))  # a killed process leaves a partial copy
        with contextlib.suppress(OSError), _lock_of(whole).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(older, ignore_errors=True)


def _lock_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.lock")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

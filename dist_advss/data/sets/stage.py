"""Copies a data set to a local disk of the node (data.stage). The first process of the node makes the copy.

The name of a copy contains the fingerprint of the set, so another set is another copy. A process that reads a copy holds a
shared lock on it. One that makes or removes it holds an exclusive lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from ...config.schema import Data
from ...errors import RunError, UserError
from ...text import printable
from .fingerprint import Files, find_parts, fingerprint

MANIFEST = ".dist_advss.json"  # in a complete copy: name, size and time of change of each file
THREADS = 8  # files that are copied at a time


@contextlib.contextmanager
def staged(data: Data, part: str, parts: Mapping[str, Files] | None = None) -> Iterator[tuple[Data, list[Path] | None]]:
    """`data` with data.root at the copy in the folder data.stage, and the files of `part` there; unchanged without data.stage.

    `parts` are those of `find_parts`, where they are known. The copy stays as it is until the context ends. The other
    processes of the node wait for it. Where it does not fit, the set is read from data.root, and a line is printed. Raises
    UserError where data.stage cannot be written, RunError where the set changes while it is copied.
    """
    if data.stage is None or data.root is None:
        yield data, parts[part].paths if parts else None
        return
    parts = parts or find_parts(data, part)
    root, copy = Path(data.root).expanduser(), _copy_of(data, parts)
    names = {file.relative_to(root): file for files in parts.values() for file in files.paths}
    with contextlib.ExitStack() as held:
        try:
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = held.enter_context(_lock_of(copy).open("a"))
            here = _hold(data, lock, copy, names, parts)
        except OSError as error:
            raise UserError(
                f"data.stage={data.stage}: cannot be written ({error.strerror}); give another folder"
            ) from error
        if here:
            yield replace(data, root=str(copy)), [copy / file.relative_to(root) for file in parts[part].paths]
        else:
            yield data, parts[part].paths


def _copy_of(data: Data, parts: Mapping[str, Files]) -> Path:
    """The folder of the copy: the name of the root, its place, and the content of the set."""
    folder = os.path.expanduser(os.path.expandvars(data.stage or ""))
    if "$" in folder:
        raise UserError(
            f"data.stage={data.stage}: contains a variable that is not set on this node; give a folder, or remove data.stage"
        )
    root = Path(data.root or "").expanduser().resolve()
    content = json.dumps(sorted((part, files.fingerprint) for part, files in parts.items()))
    name = "-".join([root.name, _digest(str(root))[:12], _digest(content)[:16]])
    return Path(folder) / f"dist_advss-{os.getuid()}" / name


def _hold(data: Data, lock: TextIO, copy: Path, names: Mapping[Path, Path], parts: Mapping[str, Files]) -> bool:
    """Waits for a complete copy, which is made if there is none, and holds it. False where it does not fit."""
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_complete(copy, names):
            return True
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete(copy, names):
            shutil.rmtree(copy, ignore_errors=True)
            if not _fits(copy, names):
                _remove_older(copy)
                if not _fits(copy, names):
                    fcntl.flock(lock, fcntl.LOCK_UN)
                    line = f"data.stage: {copy.parent} has no room for the images; reading from {data.root}"
                    print(printable(line), file=sys.stderr)
                    return False
            _make(data, copy, names, parts)
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


def _make(data: Data, copy: Path, names: Mapping[Path, Path], parts: Mapping[str, Files]) -> None:
    """Copies the set's files, and gives the copy its name once it is complete and has the set's fingerprint."""
    partial = copy.with_name(f"{copy.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    root = Path(data.root or "").expanduser()
    try:
        for folder in {partial / name.parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda name: shutil.copyfile(names[name], partial / name), names):
                pass
        for part, files in parts.items():
            paths = [partial / file.relative_to(root) for file in files.paths]
            if fingerprint(replace(data, root=str(partial)), part, paths) != files.fingerprint:
                raise RunError(f"data.root={data.root}: its files have changed while they were copied; start again")
        (partial / MANIFEST).write_text(json.dumps({str(name): _state(partial / name) for name in names}))
        partial.rename(copy)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_older(copy: Path) -> None:
    """Removes the copies of what the same root contained before, unless a process reads them."""
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

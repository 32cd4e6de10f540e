"""Where a set's betons lie, and whether they were made from the files that are there now."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ...config.schema import Data
from ...errors import UserError, nearest
from ..sets import fashion
from ..sets.sources import read
from .beton import Beton, open_beton
from .write import Show, describe, quiet, write_beton

PARTS = ("train", "test")
# the folders and files of data.root that a set is read from
PLACES = {
    "fashion_mnist": (".", "FashionMNIST/raw"),
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
    "svhn": (".",),
    "stl10": ("stl10_binary",),
    "imagenet32": (".", "*"),
    "folder": ("train/*", "test/*", "val/*"),
}


def find_beton(data: Data, part: str, show: Show = quiet) -> Beton:
    """The beton of a part of the set, "train" or "test"; written first where there is none.

    One process writes, the others wait for it. `show` takes part of what is written and how far it is. Raises UserError for a
    damaged beton, or one that was made from other files than data.root holds, RunError when it cannot be written.
    """
    mark = fingerprint(data)
    if mark is None and (data.beton is None or not file_of(data, part, "").exists()):
        mark = _present(data)
    path = file_of(data, part, mark or "")
    if not path.exists():
        with _one_at_a_time(path):
            if not path.exists():
                write_beton(data, part, path, mark or "", show)
    beton = open_beton(path)
    refuse_other_source(beton, data, part, mark)
    return beton


def write_betons(data: Data, out: Path, part: str | None, show: Show = quiet) -> list[Path]:
    """Writes the parts of a set to out/train.beton and out/test.beton, or one `part` where `out` is a .beton file.

    What is there already is replaced once the new file is whole. Raises UserError, RunError.
    """
    if part is not None and part not in PARTS:
        raise UserError(f"part={part}: no such part; {nearest(part, PARTS)}")
    mark = fingerprint(data) or _present(data)
    if out.suffix == ".beton":
        files = {part or "train": out}
    else:
        files = {name: out / f"{name}.beton" for name in PARTS if part in (None, name)}
    for name, path in files.items():
        with _one_at_a_time(path):
            write_beton(data, name, path, mark, show)
    return list(files.values())


def _present(data: Data) -> str:
    """The fingerprint of a set that was not there: fetched where data.download says so. Raises UserError."""
    read(data, "train")
    return fingerprint(data) or ""


def file_of(data: Data, part: str, mark: str) -> Path:
    """data.beton/PART.beton, or in the user's cache a folder of its own for each source and way of storing it."""
    if data.beton is not None:
        return Path(data.beton).expanduser() / f"{part}.beton"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dist_advss"
    about = describe(data, part, [], mark)
    kept = (mark, about.size if about.stored == "pixels" else about.max_side, about.channels, about.stored)
    key = hashlib.sha256(repr((*kept, about.jpeg, about.quality)).encode()).hexdigest()[:12]
    return cache / f"{data.name}-{key}" / f"{part}.beton"


def fingerprint(data: Data) -> str | None:
    """Of the names, sizes and times of the files that the set is read from; None where they are not there."""
    if data.name == "fashion_mini":
        return fashion.MINI_SHA256[:16]
    root = Path(data.root).expanduser() if data.root else fashion.DEBIAN if data.name == "fashion_mnist" else None
    if root is None or not root.is_dir():
        return None
    lines = []
    for place in PLACES[data.name]:
        for folder in sorted(root.glob(place)) if "*" in place else [root / place]:
            if folder.is_dir():
                lines += [f"{folder.relative_to(root)}/{line}" for line in _listing(folder)]
    if not lines:
        return None
    return hashlib.sha256("\n".join([data.name, *sorted(lines)]).encode()).hexdigest()[:16]


def refuse_other_source(beton: Beton, data: Data, part: str, mark: str | None) -> None:
    """Raises UserError when the configuration asks for other images than the beton holds.

    `mark` is the fingerprint of the source as it is now; None where it is not here, and the beton is taken at its word.
    """
    about, path = beton.about, beton.path
    for key, wanted, held in (
        ("name", data.name, about.name),
        ("channels", data.channels, about.channels),
        ("classes", data.classes, len(about.classes)),
        ("size", data.size, about.size if about.stored == "pixels" else data.size),
    ):
        if wanted != held:
            raise UserError(f"data.{key}={wanted}: {path} was made with data.{key}={held}; name another data.beton")
    if part != about.part:
        raise UserError(
            f"{path}: holds the {about.part} part of {about.name}, not its {part} part; rename or replace it"
        )
    if mark is not None and mark != about.fingerprint:
        raise UserError(
            f"{path}: made from other files than data.root={data.root} holds now (fingerprint {about.fingerprint}, now "
            f"{mark}); write it again with dist-advss data write, or name another data.beton"
        )


def _listing(folder: Path) -> Iterator[str]:
    """Name, size and time of each file in `folder`, for a comparison without reading them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and not entry.name.startswith("."):
                facts = entry.stat()
                yield f"{entry.name} {facts.st_size} {int(facts.st_mtime)}"


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits until no other process writes `path`, and removes what a killed one has left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("a")
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); name a folder of yours, data.beton=FOLDER"
        ) from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks: at worst two processes write the same
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
        yield

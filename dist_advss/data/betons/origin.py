"""Finds the betons of a data set, writes missing ones, and verifies that they were made from the current source files."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ...config.schema import Data
from ...config.sets import SETS
from ...errors import UserError, nearest
from ..sets.sources import files_of, read
from .beton import Beton, open_beton
from .write import OnProgress, describe, quiet, write_beton

PARTS = ("train", "test")


def find_beton(data: Data, part: str, on_progress: OnProgress = quiet) -> Beton:
    """The beton of a part of the set, "train" or "test", written first where it is missing.

    One process writes it while the others wait, and calls `on_progress` with (part, images written, images in total).
    Raises UserError for a beton that is damaged or was made from other files than data.root contains, RunError where it
    cannot be written.
    """
    fingerprint_now = fingerprint(data)
    if fingerprint_now is None and (data.beton is None or not file_of(data, part, "").exists()):
        fingerprint_now = _fingerprint_of_missing(data)
    path = file_of(data, part, fingerprint_now or "")
    if not path.exists():
        with _one_at_a_time(path):
            if not path.exists():
                write_beton(data, part, path, fingerprint_now or "", on_progress)
    beton = open_beton(path)
    refuse_other_source(beton, data, part, fingerprint_now)
    return beton


def write_betons(data: Data, out: Path, part: str | None, on_progress: OnProgress = quiet) -> list[Path]:
    """Writes the parts of a set to out/train.beton and out/test.beton, or one `part` to `out` if that is a .beton file.

    An existing file is replaced once the new one is complete. Returns the paths. Raises UserError, RunError.
    """
    if part is not None and part not in PARTS:
        raise UserError(f"part={part}: unknown part; {nearest(part, PARTS)}")
    fingerprint_now = fingerprint(data) or _fingerprint_of_missing(data)
    if out.suffix == ".beton":
        files = {part or "train": out}
    else:
        files = {name: out / f"{name}.beton" for name in PARTS if part in (None, name)}
    for name, path in files.items():
        with _one_at_a_time(path):
            write_beton(data, name, path, fingerprint_now, on_progress)
    return list(files.values())


def _fingerprint_of_missing(data: Data) -> str:
    """The fingerprint of a set whose files are missing, downloaded first for data.download. Raises UserError."""
    read(data, "train")
    return fingerprint(data) or ""


def file_of(data: Data, part: str, fingerprint_now: str) -> Path:
    """data.beton/PART.beton. Without data.beton, a folder in the user's cache for each source and way to store it."""
    if data.beton is not None:
        return Path(data.beton).expanduser() / f"{part}.beton"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dist_advss"
    about = describe(data, part, [], fingerprint_now)
    side = about.size if about.stored == "pixels" else about.max_side
    identity = (fingerprint_now, side, about.channels, about.stored, about.jpeg, about.quality)
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    return cache / f"{data.name}-{key}" / f"{part}.beton"


def fingerprint(data: Data) -> str | None:
    """A hash of the names, sizes and times of the source files of the set; None where they are missing."""
    facts = SETS[data.name]
    if facts.sha256 is not None:
        return facts.sha256[:16]
    configured = data.root or facts.root
    if configured is None or not Path(configured).expanduser().is_dir():
        return None
    lines = [data.name]
    for part in PARTS:
        try:
            files = files_of(data, part)
        except UserError:  # `read` raises it where the part is needed
            continue
        lines += [f"{file} {file.stat().st_size} {int(file.stat().st_mtime)}" for file in files]
    return None if len(lines) == 1 else hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def refuse_other_source(beton: Beton, data: Data, part: str, fingerprint_now: str | None) -> None:
    """Raises UserError where the configuration needs other images than the beton contains.

    `fingerprint_now` is that of the source files. None, where these are missing, skips the comparison.
    """
    about, path = beton.about, beton.path
    for key, value, stored in (
        ("name", data.name, about.name),
        ("channels", data.channels, about.channels),
        ("classes", data.classes, len(about.classes)),
        ("size", data.size, about.size if about.stored == "pixels" else data.size),
    ):
        if value != stored:
            raise UserError(f"data.{key}={value}: {path} was made with data.{key}={stored}; give another data.beton")
    if part != about.part:
        raise UserError(
            f"{path}: contains the {about.part} part of {about.name}, not its {part} part; rename or replace it"
        )
    if fingerprint_now is not None and fingerprint_now != about.fingerprint:
        raise UserError(
            f"{path}: made from other files than data.root={data.root} contains now (fingerprint {about.fingerprint}, now "
            f"{fingerprint_now}); write it again with dist-advss data write, or give another data.beton"
        )


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits until no other process writes `path`, and removes the temporary files of a killed one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("a")
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); give data.beton=FOLDER, a folder that you can write"
        ) from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks: at worst two processes write the same bytes
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
        yield

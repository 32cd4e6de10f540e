"""Finds the betons of a data set, writes missing ones, and verifies that they were made from the current source files."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...config.schema import Data
from ...config.sets import SETS
from ...errors import UserError, nearest
from ...files import open_own
from ..image_set import NoSuchPart
from ..sets.fingerprint import LENGTH, Files, cache_folder, find_files
from .beton import Beton, Description, open_beton
from .write import OnProgress, describe, quiet, write_beton

PARTS = ("train", "test")


def source_here(data: Data, part: str) -> Files | None:
    """The files of a part, "train" or "test"; None where data.root is not on this machine and data.beton holds the part.

    A folder that is empty counts as not there: it may be where a disk is mounted on other nodes. Raises UserError.
    """
    configured = data.root or SETS[data.name].root
    root = Path(configured).expanduser() if configured else None
    has_beton = data.beton is not None and SETS[data.name].sha256 is None and file_of(data, part, "").exists()
    if has_beton and (root is None or not root.is_dir()):
        return None
    try:
        return find_files(data, part)
    except UserError:
        if has_beton and root is not None and not any(root.iterdir()):
            return None
        raise


class NoFolder(UserError):
    """A missing beton has no folder that this process can write."""


def find_beton(data: Data, part: str, source: Files | None, on_progress: OnProgress = quiet) -> Beton:
    """The beton of a part of the set, "train" or "test", written first where it is missing.

    `source` is what `source_here` found. One process writes the beton while the others wait, and calls `on_progress` with
    (part, images written, images in total). Raises UserError for a beton that is damaged, was made from other files than
    data.root contains or stores images in another way than the configuration says, RunError where it cannot be written.
    """
    path = file_of(data, part, source.fingerprint if source else "")
    if source is not None and not path.exists():
        with _one_at_a_time(path):
            if not path.exists():
                write_beton(data, part, path, source, on_progress)
    beton = open_beton(path)
    refuse_other_source(beton, data, part, source.fingerprint if source else None)
    return beton


def write_betons(data: Data, out: Path, part: str | None, on_progress: OnProgress = quiet) -> list[Path]:
    """Writes the parts of a set to out/train.beton and out/test.beton, or one `part` to `out` if that is a .beton file.

    An existing file is replaced once the new one is complete. Returns the paths, of images without labels only the first
    where they have no test part. Raises UserError, RunError.
    """
    if part is not None and part not in PARTS:
        raise UserError(f"part={part}: unknown part; {nearest(part, PARTS)}")
    if out.suffix == ".beton":
        files = {part or "train": out}
    else:
        files = {name: out / f"{name}.beton" for name in PARTS if part in (None, name)}
    sources = {}
    for name in files:
        try:
            sources[name] = find_files(data, name)
        except NoSuchPart:
            if part is not None:
                raise
    for name, source in sources.items():
        with _one_at_a_time(files[name]):
            write_beton(data, name, files[name], source, on_progress)
    return [files[name] for name in sources]


def file_of(data: Data, part: str, fingerprint: str) -> Path:
    """data.beton/PART.beton. Without data.beton, a folder in the user's cache for each source and way to store it.

    `fingerprint` is that of the source files of the part.
    """
    if data.beton is not None:
        return Path(data.beton).expanduser() / f"{part}.beton"
    about = describe(data, part, [], fingerprint)
    side = about.size if about.stored == "pixels" else about.max_side
    identity = (fingerprint, side, about.channels, about.stored, about.jpeg, about.quality)
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    return cache_folder() / f"{data.name}-{key}" / f"{part}.beton"


def refuse_other_source(beton: Beton, data: Data, part: str, fingerprint: str | None) -> None:
    """Raises UserError where the configuration needs other images than the beton contains, or images stored otherwise.

    `fingerprint` is that of the source files. None, where these are missing, skips the comparison.
    """
    about, path = beton.about, beton.path
    wanted = describe(data, part, about.classes, about.fingerprint)
    for key, value, stored in (
        ("name", data.name, about.name),
        ("channels", data.channels, about.channels),
        ("classes", data.classes, len(about.classes)),
    ):
        if value is not None and value != stored:
            raise UserError(f"data.{key}={value}: {path} was made with data.{key}={stored}; give another data.beton")
    if part != about.part:
        raise UserError(
            f"{path}: contains the {about.part} part of {about.name}, not its {part} part; rename or replace it"
        )
    _refuse_stored_otherwise(path, about, wanted)
    # an included set is known by the first digits of its file's checksum, in any version
    if SETS[data.name].sha256 is None and len(about.fingerprint) != LENGTH:
        raise UserError(
            f"{path}: written by an earlier version, which identified its source by the times of the files; write it again "
            "with dist-advss data write"
        )
    if fingerprint is not None and fingerprint != about.fingerprint:
        raise UserError(
            f"{path}: made from other files than data.root={data.root} contains now (fingerprint {about.fingerprint}, now "
            f"{fingerprint}); write it again with dist-advss data write, or give another data.beton"
        )


def _refuse_stored_otherwise(path: Path, about: Description, wanted: Description) -> None:
    """Raises UserError where a beton does not store its images as the configuration says."""
    if about.stored != wanted.stored:
        how = {"pixels": f"squares of {about.size} pixels", "original": "images in their own shapes"}[about.stored]
        raise UserError(
            f"data.size={wanted.size}: {path} was made with data.size={about.size} and holds {how}; give another data.beton"
        )
    keys = ["size"] if wanted.stored == "pixels" else ["max_side"]
    keys += ["jpeg", "quality"] if wanted.jpeg > 0 else ["jpeg"]
    for key in keys:
        value, stored = getattr(wanted, key), getattr(about, key)
        if value != stored:
            raise UserError(
                f"data.{key}={value:g}: {path} was made with data.{key}={stored:g}; set data.{key}={stored:g}, or give "
                "another data.beton"
            )


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits until no other process writes `path`, and removes the temporary files of a killed one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open_own(path.parent / f".{path.name}.lock", "a")
    except OSError as error:
        raise NoFolder(
            f"{path.parent}: cannot be written ({error.strerror}); give data.beton=FOLDER, a folder that you can write"
        ) from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks: at worst two processes write the same bytes
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
        yield

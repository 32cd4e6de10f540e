"""A checkpoint in shards: a folder in which each process of a run wrote one file, with its shares of the state.

It has a temporary name until all files are in it. Its files are archives as those of any checkpoint: plain tensors, with
checksums. torch.distributed.checkpoint would put them under a pickle, and reading one from somebody else could run code.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch

from ..engines.shares import merge
from ..files import sync_folder, write_new
from .archive import ArchiveError, read_archive

SUFFIX = ".shards"
FORMAT = 1
TEMPORARY = f"{SUFFIX}.*.tmp"  # hidden: `.shards.…`


def temporary(folder: Path) -> Path:
    """A new name for shards in `folder`. A process of an earlier session that still writes has another one."""
    return folder / f"{SUFFIX}.{secrets.token_hex(8)}.tmp"


def write(place: Path, rank: int, size: int, content: dict[str, Any]) -> None:
    """Writes the file of process `rank` of `size`, and syncs it. Raises RunError when that fails."""
    about = {"format": FORMAT, "save": place.name, "rank": rank, "processes": size}
    write_new(_file(place, rank), lambda file: torch.save({**about, **content}, file))


def complete(place: Path, size: int) -> None:
    """Makes the folder, in which all processes have written, survive a power cut. Raises ArchiveError when a file is missing."""
    for rank in range(size):
        if not _file(place, rank).is_file():
            raise ArchiveError(
                f"{_file(place, rank)} is not there; the folder of a run must be on a disk of all processes"
            )
    sync_folder(place)


def are_here(place: Path) -> bool:
    """Whether `place` is a checkpoint in shards, with all of them or not."""
    return os.path.isfile(_file(place, 0))  # unlike Path.is_file, never raises


def read(place: Path) -> dict[str, Any]:
    """The content of a checkpoint in shards, as a single process would have written it: rank 0's, with whole tensors.

    Raises ArchiveError where files are missing or of another save, or another exception for a damaged one, of almost any
    type.
    """
    count = sum(1 for _ in place.glob("rank*.pt"))
    contents = [read_archive(_file(place, rank)) for rank in range(max(1, count))]
    save = contents[0]["save"]
    for rank, content in enumerate(contents):
        if [content.pop(name) for name in ("save", "rank", "processes")] != [save, rank, count]:
            raise ArchiveError(f"rank{rank}.pt is not of this save by {count} processes")
    return merge(contents)


def discard(place: Path) -> None:
    """Removes a checkpoint in shards or a file, or nothing. A folder goes as a whole: first its name."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.exists():
        unnamed = place if place.match(TEMPORARY) else temporary(place.parent)
        os.replace(place, unnamed)
        shutil.rmtree(unnamed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left in `folder`."""
    for leftover in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError):
            discard(leftover)


def _file(place: Path, rank: int) -> Path:
    return place / f"rank{rank}.pt"

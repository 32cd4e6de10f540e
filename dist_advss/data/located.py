"""Finds the images of a split once: the files, their identity, the loader, and for FFCV the beton."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, replace

from ..config.schema import Data
from ..errors import RunError, UserError
from .betons.beton import Beton
from .betons.origin import NoFolder, find_beton, source_here
from .identity import Identity, identity_of_beton, identity_of_files
from .sets.fingerprint import Files, find_parts

INSTALL = (
    "on Debian: apt-get install g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev, then pip install ffcv numba "
    "(for other systems see dist-advss doctor and docs/data.md)"
)


@dataclass(frozen=True)
class Located:
    """A part of a set as one process found it. The other processes of a run get it and list no folder.

    data:     the configuration, with data.loader "memory" or "ffcv"
    part:     "train" or "test"
    files:    the files of the part, and of the other part where data.stage copies the set; {} where only a beton is here
    identity: what a run remembers of the part
    """

    data: Data
    part: str
    files: dict[str, Files]
    identity: Identity


def locate(data: Data, split: str) -> Located:
    """The part of the set with the images of `split`: "train", "validation" or "test".

    It lists and hashes the files, resolves data.loader=auto and writes a missing beton, which may take long. auto uses FFCV
    where it is installed, and main memory where it is not or where the beton cannot be written. Raises UserError, RunError.
    """
    part = "test" if split == "test" else "train"
    if not ffcv_wanted(data):
        return _in_memory(data, part)
    source = source_here(data, part)
    try:
        beton = open_or_write(data, part, source)
    except (RunError, NoFolder) as error:  # the disk is full, or the cache cannot be written
        if data.loader != "auto" or data.crop == "random":
            raise
        print(f"data.loader=auto: using the memory loader, because {error}", file=sys.stderr)
        return _in_memory(data, part)
    files = {} if source is None else {part: source}
    return Located(replace(data, loader="ffcv"), part, files, identity_of_beton(data, beton))


def open_or_write(data: Data, part: str, source: Files | None) -> Beton:
    """The open beton of a part, written first where this machine has none, with a progress bar. See `find_beton`."""
    from .betons.progress_bar import ProgressBar

    with ProgressBar() as on_progress:
        return find_beton(data, part, source, on_progress)


def _in_memory(data: Data, part: str) -> Located:
    files = find_parts(data, part)
    return Located(replace(data, loader="memory"), part, files, identity_of_files(data, part, files[part]))


def ffcv_wanted(data: Data) -> bool:
    """Whether a loader of betons is configured and, if it is "auto", installed. Raises UserError where one is missing."""
    missing = ffcv_missing()
    if data.loader == "ffcv" and missing:
        raise UserError(f"data.loader=ffcv: {missing}; {INSTALL}, or set data.loader=memory")
    if data.crop == "random" and missing:
        raise UserError(f"data.crop=random: needs FFCV, and {missing}; {INSTALL}, or set data.crop=centre")
    return data.loader != "memory" and missing is None


@functools.cache
def ffcv_missing() -> str | None:
    """Why FFCV cannot be used on this machine; None where it can."""
    try:
        from .betons import decode  # noqa: F401
    except (ImportError, OSError) as error:
        return " ".join(str(error).split())
    return None

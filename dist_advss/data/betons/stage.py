"""Copies a beton to a local disk of the node (data.stage), for the FFCV loader."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from ...config.schema import Data
from ...errors import UserError
from ..node_copy import Original, node_copy
from .beton import Beton, damaged, open_beton


@contextlib.contextmanager
def staged_beton(data: Data, beton: Beton) -> Iterator[Beton]:
    """The open `beton` at its copy in the folder data.stage; unchanged without data.stage, or where there is no room.

    The copy stays until the context ends, and its pages as long as they are mapped. Where it is made, all of it is read and
    compared with its checksums. Raises UserError for a damaged beton and where data.stage cannot be written, RunError where
    the beton is replaced while it is copied.
    """
    if data.stage is None:
        yield beton
        return
    name, content = Path(beton.path.name), _content(beton)

    def is_same(folder: Path) -> bool:
        try:
            copy = open_beton(folder / name)
        except UserError:
            return False
        if _content(copy) != content:
            return False
        if not copy.is_intact():
            raise damaged(beton.path, "its images fail their checksum")
        return True

    original = Original(
        key=f"data.beton={beton.path}",
        place=beton.path,
        content=content,
        files={name: beton.path},
        is_same=is_same,
    )
    with node_copy(data.stage, original) as folder:
        yield beton if folder is None else replace(beton, path=folder / name)


def _content(beton: Beton) -> str:
    """An identity of the images, and of the tables by which they are found in the file."""
    digest = hashlib.sha256(json.dumps([beton.sha256, asdict(beton.about)]).encode())
    for table in (beton.labels, beton.mode, beton.height, beton.width, beton.start, beton.size):
        digest.update(table.tobytes())
    return digest.hexdigest()

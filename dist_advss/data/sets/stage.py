"""Copies the files of a data set to a local disk of the node (data.stage), for the memory loader."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ...config.schema import Data
from ..node_copy import Original, node_copy
from .fingerprint import Files, find_parts, fingerprint


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
    found = parts or find_parts(data, part)
    root = Path(data.root).expanduser()

    def is_same(copy: Path) -> bool:
        here = replace(data, root=str(copy))
        return all(
            fingerprint(here, name, [copy / file.relative_to(root) for file in files.paths]) == files.fingerprint
            for name, files in found.items()
        )

    original = Original(
        key=f"data.root={data.root}",
        place=root,
        content=json.dumps(sorted((name, files.fingerprint) for name, files in found.items())),
        files={file.relative_to(root): file for files in found.values() for file in files.paths},
        is_same=is_same,
    )
    with node_copy(data.stage, original) as copy:
        if copy is None:
            yield data, found[part].paths
        else:
            yield replace(data, root=str(copy)), [copy / file.relative_to(root) for file in found[part].paths]

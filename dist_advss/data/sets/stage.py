"""A copy of a set's files on a disk of the node, made once by whichever process comes first."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from ...config.schema import Data
from ...errors import UserError


def staged(data: Data) -> Data:
    """The same set, read from its copy in the folder `data.stage`; as it is when no such folder is asked for.

    Other processes of the node wait for the copy. Without room for it the set is read where it is, which is said. Raises
    UserError when `data.stage` cannot be written.
    """
    if data.stage is None or data.root is None or not Path(data.root).is_dir():
        return data
    root = Path(data.root).resolve()
    folder = Path(os.path.expandvars(data.stage))
    if "$" in str(folder):
        raise UserError(f"data.stage={data.stage}: no such variable on this node; give a folder, or drop it")
    copy = folder / f"dist_advss-{os.getuid()}" / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    try:
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with copy.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                _copy(root, copy)
    except OSError as error:
        raise UserError(f"data.stage={data.stage}: cannot be written ({error.strerror}); choose another") from error
    return dataclasses.replace(data, root=str(copy)) if copy.is_dir() else data


def _copy(root: Path, copy: Path) -> None:
    """The whole folder under its name at once, or nothing where there is no room."""
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    free = shutil.disk_usage(copy.parent).free
    if size > 0.9 * free:
        print(f"data.stage: {size / 1e9:.1f} GB do not fit into {free / 1e9:.1f} GB; reading {root} where it is")
        return
    partial = copy.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(root, partial)
    partial.rename(copy)

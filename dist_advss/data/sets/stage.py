"""Copies a data set to a local disk of the node (data.stage). The first process of the node makes the copy."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from ...config.schema import Data
from ...errors import UserError
from ...files import open_own


def staged(data: Data) -> Data:
    """`data` with data.root at the copy in the folder data.stage; unchanged without data.stage.

    The other processes of the node wait for the copy. Where it does not fit, the set is read from data.root, and a line is
    printed. Raises UserError where data.stage cannot be written.
    """
    if data.stage is None or data.root is None or not Path(data.root).is_dir():
        return data
    root = Path(data.root).resolve()
    folder = Path(os.path.expandvars(data.stage))
    if "$" in str(folder):
        raise UserError(
            f"data.stage={data.stage}: contains a variable that is not set on this node; give a folder, or remove data.stage"
        )
    copy = folder / f"dist_advss-{os.getuid()}" / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    try:
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open_own(copy.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                _copy(root, copy)
    except OSError as error:
        raise UserError(
            f"data.stage={data.stage}: cannot be written ({error.strerror}); give another folder"
        ) from error
    return dataclasses.replace(data, root=str(copy)) if copy.is_dir() else data


def _copy(root: Path, copy: Path) -> None:
    """Copies the folder, and gives the copy its name once it is complete. Does nothing where it does not fit."""
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    free = shutil.disk_usage(copy.parent).free
    if size > 0.9 * free:
        print(f"data.stage: {size / 1e9:.1f} GB do not fit into {free / 1e9:.1f} GB; reading from {root}")
        return
    partial = copy.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(root, partial)
    partial.rename(copy)

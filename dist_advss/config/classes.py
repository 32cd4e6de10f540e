"""The number of classes, which commands that need labels must know before they read images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..text import plural, printable
from .keys import names_with
from .sets import SETS


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, hidden ones left out: the classes of a tree. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def is_folder(entry: os.DirEntry[str] | Path) -> bool:
    """Whether an entry of a folder is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def check_classes(command: str, data: Any) -> None:
    """Refuses an unknown number of classes for a command that needs labels, and a single class. Raises UserError."""
    if data.classes is not None and data.classes > 1:
        return
    lead = (
        "data.classes: missing" if data.classes is None else f"data.classes={data.classes}: {command} needs two or more"
    )
    if data.name != "folder" or data.root is None:
        count = SETS[data.name].classes
        raise UserError(f"{lead}; set data.classes={count or 'N'}, the number of classes of {data.name}")
    # The folders of a tree are counted for the message. They may be on another machine.
    root = Path(data.root).expanduser()
    try:
        count = len(class_folders(root / "train")) if (root / "train").is_dir() or not root.is_dir() else 0
    except OSError as error:
        raise UserError(f"{lead}; set data.classes=N, the number of folders in {printable(root / 'train')}") from error
    if count == 0:
        raise UserError(
            f"data.root={printable(data.root)}: has no class folders, so its images have no labels, and {command} needs "
            "labels; give images in ROOT/train/<class>/"
        )
    if count == 1:
        raise UserError(
            f"data.classes: {printable(root / 'train')} has 1 folder, and {command} needs two classes or more; add a folder"
        )
    raise UserError(f"{lead}; {printable(root / 'train')} has {plural(count, 'folder')}; set data.classes={count}")


def refuse_labels(command: str, data: Any) -> None:
    """Refuses keys that choose which labels to train on, for a command that trains on none. Raises UserError."""
    for key in names_with(data.__class__, "needs_labels"):
        value = getattr(data, key)
        if value is not None:
            raise UserError(
                f"data.{key}={value}: {command} trains on no labels; drop it, or set data.limit=N for the first N images"
            )

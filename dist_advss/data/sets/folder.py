"""Any tree of image files: ROOT/train/<class>/* and ROOT/test/<class>/* (or ROOT/val/<class>/*)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...config.schema import Data
from ...errors import UserError
from ..image_files import decode
from ..image_set import Source

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}


def files_of(data: Data, part: str) -> list[Path]:
    """The image files of a part, "train" or "test", in the order of `read`. Raises UserError.

    Images are interleaved by class, one of each class in turn, so the first N contain every class. Within a class they are
    sorted by file name.
    """
    if data.root is None:
        raise UserError("data.root: missing; give data.root=FOLDER, a tree FOLDER/train/<class>/*.jpg")
    root = Path(data.root).expanduser()
    train = _classes(root / "train")
    if len(train) != data.classes:
        raise UserError(
            f"data.classes={data.classes}: {root / 'train'} has {len(train)} folders; set data.classes={len(train)}"
        )
    folder = root / "train"
    if part == "test":
        folder = root / "test" if (root / "test").is_dir() else root / "val"
        if _classes(folder) != train:
            odd = sorted(set(_classes(folder)) ^ set(train))[0]
            raise UserError(
                f"{folder}: its classes differ from those of {root / 'train'}, such as {odd!r}; give both the same folders"
            )
    return _list(folder, train)


def read(data: Data, part: str, files: list[Path]) -> Source:
    """The images in `files`, which `files_of` found below data.root. They are decoded when their pixels are read.

    The class of a file is the folder that it is in, and classes are sorted by name. No folder is listed.
    """
    depth = len(Path(data.root or "").expanduser().parts) + 1  # ROOT/train/<class>/…
    names = [file.parts[depth] for file in files]
    classes = sorted(set(names))
    position = {name: label for label, name in enumerate(classes)}
    labels = np.array([position[name] for name in names], np.int64)
    return Source(labels, classes, lambda rows: decode([files[row] for row in rows], data.size, data.channels), files)


def _classes(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted. Raises UserError where there are none."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"data.root={folder.parent}: no folder {folder}; the tree is ROOT/train/<class>/*.jpg and "
            "ROOT/test/<class>/*.jpg (or val), and data.download cannot fetch it"
        ) from error
    if not names:
        raise UserError(
            f"{folder}: contains no folders; the tree is ROOT/train/<class>/*.jpg, one folder for each class"
        )
    return names


def _list(folder: Path, classes: list[str]) -> list[Path]:
    """All images, interleaved by class. Within a class they are sorted by file name."""
    files: list[Path] = []
    ranks: list[int] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        entries = sorted(e.name for e in os.scandir(folder / name) if os.path.splitext(e.name)[1].lower() in EXTENSIONS)
        if not entries:
            raise UserError(
                f"{folder / name}: contains no images (looked for {', '.join(sorted(EXTENSIONS))}); add some or remove it"
            )
        files += [folder / name / entry for entry in entries]
        ranks += range(len(entries))
        labels += [label] * len(entries)
    order = np.lexsort((labels, ranks))
    return [files[position] for position in order]

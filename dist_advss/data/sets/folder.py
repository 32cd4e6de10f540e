"""Any tree of image files: ROOT/train/<class>/* and ROOT/test/<class>/* (or ROOT/val/<class>/*), or images without labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...config.classes import class_folders, is_folder
from ...config.schema import Data
from ...errors import UserError
from ...text import plural, printable
from ..image_files import decode
from ..image_modes import endings
from ..image_set import NoSuchPart, Source
from ..notes import say

TREE = (
    "the tree is ROOT/train/<class>/*.jpg and ROOT/test/<class>/*.jpg (or val), or ROOT/*.jpg for images without labels"
)
NAMED = 5  # files that a message names


def files_of(data: Data, part: str) -> list[Path]:
    """The image files of a part, "train" or "test", in the order of `read`. Raises UserError.

    Images are interleaved by class, one of each class in turn, so the first N contain every class. Within a class they are
    sorted by their path below the folder of the class, which may contain folders. Without class folders, the images of
    ROOT/train or else of ROOT itself have no labels. Hidden files and folders are left out.
    """
    if data.root is None:
        raise UserError("data.root: missing; give data.root=FOLDER, a tree FOLDER/train/<class>/*.jpg")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={printable(data.root)}: no folder {printable(root / 'train')}; {TREE}")
    train = root / "train" if (root / "train").is_dir() else root
    classes = _classes(train) if train != root else []
    _check_count(data, train, classes)
    folder = train if part == "train" else _test_folder(root, train, classes)
    images = _labelled(folder, classes) if classes else _direct(folder)
    if not images:
        raise UserError(f"{printable(folder)}: contains no images and no folders of images; {TREE}")
    return images


def read(data: Data, part: str, files: list[Path]) -> Source:
    """The images in `files`, which `files_of` found below data.root. They are decoded when their pixels are read.

    The class of a file is the folder in ROOT/train or ROOT/test that contains it, and classes are sorted by name. Files in
    no such folder have label -1. No folder is listed.
    """
    depth = len(Path(data.root or "").expanduser().parts)
    below = [file.parts[depth:] for file in files]  # train, <class>, …, file
    names = [parts[1] if len(parts) > 2 else None for parts in below]
    folders = sorted({name for name in names if name is not None})
    position: dict[str | None, int] = {name: label for label, name in enumerate(folders)} | {None: -1}
    labels = np.array([position[name] for name in names], np.int64)
    classes = [printable(name) for name in folders]
    return Source(labels, classes, lambda rows: decode([files[row] for row in rows], data.size, data.channels), files)


def _check_count(data: Data, train: Path, classes: list[str]) -> None:
    """Raises UserError where data.classes differs from the number of class folders."""
    if data.classes in (None, len(classes)):
        return
    if not classes:
        raise UserError(
            f"data.classes={data.classes}: {printable(train)} has no class folders, so its images have no labels; "
            "drop data.classes to pre-train on them"
        )
    raise UserError(
        f"data.classes={data.classes}: {printable(train)} has {plural(len(classes), 'folder')}; "
        f"set data.classes={len(classes)}"
    )


def _test_folder(root: Path, train: Path, classes: list[str]) -> Path:
    """ROOT/test, or else ROOT/val, with the same class folders as `train`. Raises UserError."""
    folder = root / "test" if (root / "test").is_dir() else root / "val"
    if not folder.is_dir():
        error = UserError if classes else NoSuchPart
        raise error(f"data.root={printable(root)}: no folder {printable(root / 'test')}; {TREE}")
    if odd := sorted(set(_classes(folder)) ^ set(classes)):
        raise UserError(
            f"{printable(folder)}: its classes differ from those of {printable(train)}, such as {printable(odd[0])!r}; "
            "give both the same folders"
        )
    return folder


def _classes(folder: Path) -> list[str]:
    try:
        return class_folders(folder)
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot be listed ({error.strerror}); correct its permissions") from error


def _labelled(folder: Path, classes: list[str]) -> list[Path]:
    """The images in the class folders, interleaved by class. Raises UserError for a class without any."""
    files: list[Path] = []
    ranks: list[int] = []
    labels: list[int] = []
    others: list[Path] = []
    for label, name in enumerate(classes):
        images, rest = _walk(folder / name, deep=True)
        others += rest
        if not images:
            found = f" ({_listed(folder, rest)} instead)" if rest else ""
            raise UserError(f"{printable(folder / name)}: contains no images{found}; add some or remove it")
        files += images
        ranks += range(len(images))
        labels += [label] * len(images)
    _say_others(folder, others)
    outside, _ = _walk(folder, deep=False)
    if outside:
        say(
            f"{printable(folder)}: {plural(len(outside), 'image')} outside its class folders, not read: {_listed(folder, outside)}"
        )
    order = np.lexsort((labels, ranks))
    return [files[position] for position in order]


def _direct(folder: Path) -> list[Path]:
    """The images in `folder` itself, sorted by name."""
    images, others = _walk(folder, deep=False)
    if images:
        _say_others(folder, others)
        if inside := [folder / name for name in _classes(folder)]:
            say(f"{printable(folder)}: {plural(len(inside), 'folder')} in it, not read: {_listed(folder, inside)}")
    return images


def _walk(top: Path, *, deep: bool) -> tuple[list[Path], list[Path]]:
    """Images and other files in `top`, and with `deep` in all folders below, sorted by the parts of their paths.

    Links are followed, and a folder that links lead to several times is read once. Raises UserError for links to nothing.
    """
    images: list[Path] = []
    others: list[Path] = []
    broken: list[Path] = []
    visited: set[tuple[int, int]] = set()
    readable = endings()
    waiting: list[os.DirEntry[str] | Path] = [top]  # the last one is next
    while waiting:
        place = waiting.pop()
        # 1. A file. What is neither a file nor a folder, such as a pipe, counts as another file.
        if not is_folder(place):
            path = Path(place)
            if path.suffix.lower() not in readable:
                others.append(path)
            elif place.is_symlink() and not os.path.exists(place):
                broken.append(path)
            else:
                (images if place.is_file() else others).append(path)
            continue
        # 2. A folder that was not read yet. Its first entry is next.
        try:
            facts = os.stat(place)
            if (facts.st_dev, facts.st_ino) in visited:
                continue
            visited.add((facts.st_dev, facts.st_ino))
            with os.scandir(place) as entries:
                found = [
                    entry for entry in entries if not entry.name.startswith(".") and (deep or not is_folder(entry))
                ]
        except OSError as error:
            raise UserError(
                f"{printable(place)}: cannot be listed ({error.strerror}); correct its permissions"
            ) from error
        waiting += sorted(found, key=lambda entry: entry.name, reverse=True)
    if broken:
        raise UserError(
            f"{printable(top)}: {plural(len(broken), 'link')} to missing files: {_listed(top, broken)}; restore or remove them"
        )
    return images, others


def _say_others(folder: Path, others: list[Path]) -> None:
    if others:
        are = "is not an image by its ending" if len(others) == 1 else "are not images by their endings"
        say(f"{printable(folder)}: {plural(len(others), 'file')} {are}, not read: {_listed(folder, others)}")


def _listed(folder: Path, files: list[Path]) -> str:
    """The first names below `folder`, and how many more there are."""
    names = [printable(file.relative_to(folder)) for file in files[:NAMED]]
    more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
    return ", ".join(names) + more

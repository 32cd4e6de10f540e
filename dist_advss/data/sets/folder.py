"""Any tree of image files: ROOT/train/<class>/* and ROOT/test/<class>/* (or ROOT/val/<class>/*)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...config.schema import Data
from ...errors import UserError
from ..image_set import Bytes, Integers, Source

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
CHUNK = 64  # files decoded by one task of the thread pool


def read(data: Data, part: str) -> Source:
    """The classes are the folders' names in alphabetical order; images are decoded when their pixels are asked for.

    The images stand in turns, one of each class after the other, so that the first N hold every class. Raises UserError.
    """
    if data.root is None:
        raise UserError("data.root: missing; give data.root=FOLDER, a tree FOLDER/train/<class>/*.jpg")
    root = Path(data.root).expanduser()
    train = _classes(root / "train")
    if len(train) != data.classes:
        raise UserError(
            f"data.classes={data.classes}: {root / 'train'} has {len(train)} folders; set data.classes={len(train)}"
        )
    where = root / "train"
    if part == "test":
        where = root / "test" if (root / "test").is_dir() else root / "val"
        if _classes(where) != train:
            odd = sorted(set(_classes(where)) ^ set(train))[0]
            raise UserError(
                f"{where}: its classes differ from those of {root / 'train'}, such as {odd!r}; give both the same folders"
            )
    files, labels = _list(where, train)
    return Source(labels, train, lambda rows: decode([files[row] for row in rows], data.size, data.channels), files)


def decode(files: list[Path], size: int, channels: int) -> Bytes:
    """Images (N, size, size, channels) uint8, decoded by Pillow in parallel threads.

    One of another size is scaled so that its short side fits (bilinear, antialiased), then cropped at the centre. Raises
    UserError for a file that is no image, or more of them than memory holds.
    """
    try:
        out = np.empty((len(files), size, size, channels), np.uint8)
    except MemoryError as error:
        gib = len(files) * size * size * channels / 2**30
        raise UserError(
            f"data.loader=memory: {len(files)} images take {gib:.0f} GiB; lower data.size or data.limit"
        ) from error

    def work(start: int) -> None:
        for position in range(start, min(start + CHUNK, len(files))):
            out[position] = square(files[position], size, channels)

    with ThreadPoolExecutor(cores()) as pool:
        try:
            for _ in pool.map(work, range(0, len(files), CHUNK)):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return out


def square(file: Path, size: int, channels: int) -> Bytes:
    """One image (size, size, channels) uint8: scaled so that its short side fits, then cropped at the centre."""
    from PIL import Image

    image = _open(file, channels)
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels)


def original(file: Path, max_side: int, channels: int) -> Bytes:
    """One image (height, width, channels) uint8 of its own shape, scaled down where its longer side is above `max_side`."""
    from PIL import Image

    image = _open(file, channels)
    scale = max_side / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _open(file: Path, channels: int) -> Image.Image:
    """The decoded image, grey or RGB. Raises UserError."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return opened.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything over damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{file}: cannot be read as an image ({reason}); replace it or take it out of the tree"
        ) from error


def _classes(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted. Raises UserError when there are none."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"data.root={folder.parent}: no folder {folder}; the tree is ROOT/train/<class>/*.jpg and "
            "ROOT/test/<class>/*.jpg (or val), and data.download cannot fetch it"
        ) from error
    if not names:
        raise UserError(f"{folder}: no folders in it; the tree is ROOT/train/<class>/*.jpg, one folder for each class")
    return names


def _list(folder: Path, classes: list[str]) -> tuple[list[Path], Integers]:
    """All images of the classes, one of each class after the other, each class in the order of its file names."""
    files: list[Path] = []
    ranks: list[int] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        entries = sorted(e.name for e in os.scandir(folder / name) if os.path.splitext(e.name)[1].lower() in EXTENSIONS)
        if not entries:
            raise UserError(
                f"{folder / name}: no images in it (looked for {', '.join(sorted(EXTENSIONS))}); add some or remove it"
            )
        files += [folder / name / entry for entry in entries]
        ranks += range(len(entries))
        labels += [label] * len(entries)
    order = np.lexsort((labels, ranks))
    return [files[position] for position in order], np.asarray(labels, np.int64)[order]


def cores() -> int:
    """The cores that this process may use, fewer than the machine's under Slurm."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Writes betons of any data set, raw or JPEG. Images are encoded in parallel and stored in the order of the set.

FFCV's own writer hangs when one of its processes dies, keeps several Python objects for each image, and stores images in the
order in which its processes finish. This one raises an error, needs about sixty bytes an image, and is deterministic.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...config.schema import Data
from ...config.sets import SETS
from ...cores import usable_cores
from ...errors import RunError, UserError
from ...files import write_whole
from ...rng import Rng
from ..image_files import Failure, Unreadable, each, original, square
from ..image_set import Bytes, Source
from ..sets.fingerprint import Files, refuse_changed
from ..sets.sources import read
from . import beton
from .beton import ALLOCATION, JPEG, PAGE, RAW, RECORD, Description

SMALL = 96  # pixels; up to this data.size images are stored raw, as squares
CHUNK = 256  # images that one thread encodes at a time
OnProgress = Callable[[str, int, int], None]  # part, images written, images in total
Encoded = tuple[int, int, int, bytes | memoryview]  # mode, height, width, bytes


def quiet(part: str, done: int, count: int) -> None:
    """Reports no progress."""


def describe(data: Data, part: str, classes: list[str], fingerprint: str) -> Description:
    """The description of a beton of this part of the set, as `data` configures it."""
    stored = "original" if SETS[data.name].encoded and data.size > SMALL else "pixels"
    jpeg = data.jpeg if data.jpeg is not None else float(data.size > SMALL)
    return Description(
        name=data.name,
        part=part,
        size=data.size,
        channels=data.channels,
        classes=classes,
        stored=stored,
        jpeg=jpeg,
        quality=data.quality,
        max_side=data.max_side,
        fingerprint=fingerprint,
    )


def write_beton(data: Data, part: str, path: Path, files: Files, on_progress: OnProgress = quiet) -> None:
    """Reads a part of the set, "train" (with the unlabelled images) or "test", and writes its beton completely or not at all.

    Raises UserError for a set that cannot be read, RunError where the disk is full or the files change meanwhile.
    """
    source = read(data, "train+unlabelled" if part == "train" else part, files.paths)
    about = describe(data, part, source.classes, files.fingerprint)
    write_source(source, about, path, on_progress, lambda: refuse_changed(data, part, files))


def write_source(
    source: Source,
    about: Description,
    path: Path,
    on_progress: OnProgress = quiet,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Writes `source` as a beton. With about.jpeg between 0 and 1, always the same images become JPEG.

    There is a file at `path` once `check`, which may raise, has returned after the last image.
    """
    count = len(source.labels)
    if about.stored == "pixels":
        _refuse_full_disk(path, int(count * (1 - about.jpeg)) * 3 * about.size**2)

    def write(file: BinaryIO) -> None:
        _Writer(file, source, about).run(lambda done: on_progress(about.part, done, count))
        check()

    write_whole(path, write)


class _Writer:
    """Writes one file. The tables are kept in memory until all images are written."""

    def __init__(self, file: BinaryIO, source: Source, about: Description) -> None:
        self.file = file
        self.source = source
        self.about = about
        count = len(source.labels)
        self.records = np.zeros(count, RECORD)
        self.allocations = np.zeros(count, ALLOCATION)
        self.page = PAGE
        while self.page < 3 * max(about.size, about.max_side) ** 2:  # the largest image must fit in a page
            self.page *= 2
        self.first = beton.pages_start(count, self.page)
        self.position = self.first
        self.digest = hashlib.sha256()

    def run(self, on_progress: Callable[[int], None]) -> None:
        """Writes the file, and calls `on_progress` with the number of images written so far."""
        # 1. room for the header and the records, then the description and the images
        text = beton.encode(self.about)
        self.file.write(bytes(self.first))
        self._append(text)
        done = 0
        for chunk in self._encoded():
            for encoded in chunk:
                self._add(done, *encoded)
                done += 1
            on_progress(done)
        # 2. the tables, whose content is known only now
        self.records["f1"] = self.source.labels
        self.allocations["sample_id"] = np.arange(done)
        self.file.write(self.allocations.tobytes())
        seal = {
            "about": (self.first, len(text)),
            "tables": beton.checksum(self.records, self.allocations, text),
            "sha256": self.digest.hexdigest(),
        }
        head = beton.head(self.page, done, self.position, seal)
        self.file.seek(len(head))
        self.file.write(self.records.tobytes())
        self.file.flush()
        # 3. the header, once everything else is on disk: it makes the file a beton
        os.fsync(self.file.fileno())
        self.file.seek(0)
        self.file.write(head)

    def _encoded(self) -> Iterator[list[Encoded]]:
        """The encoded images in order, CHUNK at a time, while threads encode the next chunks.

        Raises Unreadable with all files that are not images, after trying the rest.
        """
        count = len(self.source.labels)
        chunks: deque[Future[list[Encoded]]] = deque()
        failures: list[Failure] = []
        threads = usable_cores()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for start in range(0, count, CHUNK):
                    chunks.append(pool.submit(self._encode, np.arange(start, min(start + CHUNK, count))))
                    if len(chunks) > 2 * threads:
                        yield _result(chunks.popleft(), failures)
                while chunks:
                    yield _result(chunks.popleft(), failures)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        if failures:
            raise Unreadable(failures)

    def _encode(self, rows: Any) -> list[Encoded]:
        """The images at positions `rows` (n,) int64. Raises UserError where the source has fewer images than labels."""
        about, source = self.about, self.source
        as_jpeg = (Rng(0, "beton").rows(_tensor(rows)).uniform("jpeg") < about.jpeg).numpy()
        if source.files is None:
            pictures = list(source.pixels(rows))
            if len(pictures) != len(rows):
                raise UserError(
                    f"data.name={about.name}: {len(source.labels)} labels, but fewer images; check its files"
                )
        elif about.stored == "original":
            files = [source.files[row] for row in rows]
            pictures = each(files, lambda file: original(file, about.max_side, about.channels))
        else:
            files = [source.files[row] for row in rows]
            pictures = each(files, lambda file: square(file, about.size, about.channels))
        return [_encode_one(*pair, about.quality) for pair in zip(pictures, as_jpeg, strict=True)]

    def _add(self, row: int, mode: int, height: int, width: int, content: bytes | memoryview) -> None:
        """Appends image `row`, on the next page where it does not fit on this one."""
        size = len(content)
        room = self.page - self.position % self.page
        if size > room:
            self._append(bytes(room))
        self.records[row] = ((mode, width, height, self.position), 0)
        self.allocations[row] = (0, self.position, size)
        self._append(content)

    def _append(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.position += len(content)


def _result(chunk: Future[list[Encoded]], failures: list[Failure]) -> list[Encoded]:
    """The encoded images of a chunk; none once a file is unreadable. Adds the unreadable ones to `failures`."""
    try:
        encoded = chunk.result()
    except Unreadable as error:
        failures += error.failures
    return [] if failures else encoded


def _encode_one(picture: Bytes, as_jpeg: bool, quality: int) -> Encoded:
    """An image (height, width, channels) uint8 as FFCV stores it, with three channels."""
    from PIL import Image

    height, width, channels = picture.shape
    colour = np.ascontiguousarray(np.broadcast_to(picture, (height, width, 3)) if channels == 1 else picture)
    if not as_jpeg:
        return RAW, height, width, colour.data.cast("B")
    stream = io.BytesIO()
    Image.fromarray(colour).save(stream, "JPEG", quality=quality)
    return JPEG, height, width, stream.getvalue()


def _refuse_full_disk(path: Path, needed: int) -> None:
    """Raises RunError where the disk of `path` has less than `needed` bytes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror}); give another folder") from error
    if free < needed:
        raise RunError(
            f"{path}: needs {needed / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB; give a folder on another disk, or "
            "data.jpeg=1 for smaller images"
        )


def _tensor(rows: Any) -> Any:
    import torch

    return torch.from_numpy(rows)

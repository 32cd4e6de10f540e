"""Writing betons: any set, raw or JPEG, encoded in parallel and laid down in the set's order.

FFCV's own writer waits for ever when one of its processes dies, keeps several Python objects for each image, and orders
images as its processes finish. This one raises, keeps some sixty bytes an image, and writes the same bytes each time.
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
from ...errors import RunError, UserError
from ...files import write_whole
from ...rng import Rng
from ..image_set import Bytes, Source
from ..sets import folder
from ..sets.sources import read
from . import beton
from .beton import ALLOCATION, JPEG, PAGE, RAW, RECORD, Description

SMALL = 96  # pixels; up to here images are stored as the memory loader gives them, raw
CHUNK = 256  # images that one thread encodes at a time
Show = Callable[[str, int, int], None]  # part, images written, images in all
Encoded = tuple[int, int, int, bytes | memoryview]  # mode, height, width, bytes


def quiet(part: str, done: int, count: int) -> None:
    """Shows nothing."""


def describe(data: Data, part: str, classes: list[str], fingerprint: str) -> Description:
    """How `data` asks for this part of the set to be stored."""
    stored = "original" if data.name == "folder" and data.size > SMALL else "pixels"
    jpeg = data.jpeg if data.jpeg is not None else float(data.size > SMALL)
    return Description(
        data.name, part, data.size, data.channels, classes, stored, jpeg, data.quality, data.max_side, fingerprint
    )


def write_beton(data: Data, part: str, path: Path, fingerprint: str, show: Show = quiet) -> None:
    """Reads a part of the set, "train" (with what is unlabelled) or "test", and writes it whole or not at all.

    Raises UserError for a set that cannot be read, RunError when there is no room.
    """
    source = read(data, "train+unlabelled" if part == "train" else part)
    write_source(source, describe(data, part, source.classes, fingerprint), path, show)


def write_source(source: Source, about: Description, path: Path, show: Show = quiet) -> None:
    """`source` as a beton. The choice of images that become JPEG where about.jpeg is between 0 and 1 is always the same."""
    count = len(source.labels)
    if about.stored == "pixels":
        _refuse_full_disk(path, int(count * (1 - about.jpeg)) * 3 * about.size**2)
    write_whole(path, lambda file: _Writer(file, source, about).run(lambda done: show(about.part, done, count)))


class _Writer:
    """One file being written: the tables in memory, the images passing through."""

    def __init__(self, file: BinaryIO, source: Source, about: Description) -> None:
        self.file, self.source, self.about = file, source, about
        count = len(source.labels)
        self.records, self.allocations = np.zeros(count, RECORD), np.zeros(count, ALLOCATION)
        self.page = PAGE
        while self.page < 3 * max(about.size, about.max_side) ** 2:
            self.page *= 2
        self.at = self.first = beton.pages_start(count, self.page)
        self.digest = hashlib.sha256()

    def run(self, show: Callable[[int], None]) -> None:
        text = beton.encode(self.about)
        self.file.write(bytes(self.first))
        self._append(text)
        done = 0
        for chunk in self._encoded():
            for encoded in chunk:
                self._add(done, *encoded)
                done += 1
            show(done)
        self.records["f1"] = self.source.labels
        self.allocations["sample_id"] = np.arange(done)
        self.file.write(self.allocations.tobytes())
        seal = {
            "about": (self.first, len(text)),
            "tables": beton.checksum(self.records, self.allocations, text),
            "sha256": self.digest.hexdigest(),
        }
        head = beton.head(self.page, done, self.at, seal)
        self.file.seek(len(head))
        self.file.write(self.records.tobytes())
        self.file.flush()
        os.fsync(self.file.fileno())  # before the header, which makes a beton of it
        self.file.seek(0)
        self.file.write(head)

    def _encoded(self) -> Iterator[list[Encoded]]:
        """The encoded images in order, CHUNK at a time; threads are a few chunks ahead."""
        count = len(self.source.labels)
        ahead: deque[Future[list[Encoded]]] = deque()
        cores = folder.cores()
        with ThreadPoolExecutor(cores) as pool:
            try:
                for start in range(0, count, CHUNK):
                    ahead.append(pool.submit(self._encode, np.arange(start, min(start + CHUNK, count))))
                    if len(ahead) > 2 * cores:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _encode(self, rows: Any) -> list[Encoded]:
        about, source = self.about, self.source
        as_jpeg = (Rng(0, "beton").rows(_tensor(rows)).uniform("jpeg") < about.jpeg).numpy()
        if source.files is None:
            pictures = list(source.pixels(rows))
            if len(pictures) != len(rows):
                raise UserError(
                    f"data.name={about.name}: {len(source.labels)} labels, but fewer images; check its files"
                )
        elif about.stored == "original":
            pictures = [folder.original(source.files[row], about.max_side, about.channels) for row in rows]
        else:
            pictures = [folder.square(source.files[row], about.size, about.channels) for row in rows]
        return [_encode_one(*pair, about.quality) for pair in zip(pictures, as_jpeg, strict=True)]

    def _add(self, row: int, mode: int, height: int, width: int, content: bytes | memoryview) -> None:
        size = len(content)
        left = self.page - self.at % self.page
        if size > left:
            self._append(bytes(left))
        self.records[row] = ((mode, width, height, self.at), 0)
        self.allocations[row] = (0, self.at, size)
        self._append(content)

    def _append(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.at += len(content)


def _encode_one(picture: Bytes, as_jpeg: bool, quality: int) -> Encoded:
    """(height, width, channels) uint8 as FFCV stores it: three channels."""
    from PIL import Image

    height, width, channels = picture.shape
    colour = np.ascontiguousarray(np.broadcast_to(picture, (height, width, 3)) if channels == 1 else picture)
    if not as_jpeg:
        return RAW, height, width, colour.data.cast("B")
    stream = io.BytesIO()
    Image.fromarray(colour).save(stream, "JPEG", quality=quality)
    return JPEG, height, width, stream.getvalue()


def _refuse_full_disk(path: Path, wanted: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror}); name another folder") from error
    if free < wanted:
        raise RunError(
            f"{path}: needs {wanted / 1e9:.2f} GB and its disk has {free / 1e9:.2f}; name a folder on another disk, or "
            "data.jpeg=1 stores it smaller"
        )


def _tensor(rows: Any) -> Any:
    import torch

    return torch.from_numpy(rows)

"""FFCV's file format (.beton, version 2), restricted to colour images and their labels.

    header · two field descriptors · a record for each image · [page border] · description · images · allocation table

The description is JSON: the data set, its classes, how images are stored, and the fingerprint of the source files. It
precedes the first image, where FFCV's own readers ignore it. The unused bytes of the first field descriptor contain its
position and the checksums. The header is written last, so an incomplete file has none.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from ..image_set import Bytes, Integers

VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", 1024))], align=True)
FIELDS = (("image", 2), ("label", 1))  # name and FFCV's number of the type: RGBImageField, IntField
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
RECORD = np.dtype([("f0", IMAGE), ("f1", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
JPEG, RAW = 0, 1  # values of `mode`
RECORDS_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
PAGE = 2 * 2**20  # bytes; no image crosses the border of a page
SQUARES = "squares"  # `Description.pixels` of what the memory loader gives too


@dataclass(frozen=True)
class Description:
    """The content of a beton: a part of a data set, and how its images are stored.

    part:        "train" (with the unlabelled images of the set) or "test"
    stored:      "pixels": squares of data.size, as in the memory loader; "original": each image in its own shape
    jpeg:        the share of images that are JPEG, 0 to 1
    fingerprint: of the source files of this part
    """

    name: str
    part: str
    size: int
    channels: int
    classes: list[str]
    stored: str
    jpeg: float
    quality: int
    max_side: int
    fingerprint: str

    @property
    def pixels(self) -> str:
        """What the loaded pixels depend on beside the source files and data.size; SQUARES where both loaders give the same."""
        stored = SQUARES if self.stored == "pixels" else f"original up to {self.max_side}"
        return f"{stored}, JPEG {self.jpeg:g} of quality {self.quality}" if self.jpeg else stored


@dataclass(frozen=True)
class Beton:
    """An open beton: its tables are in memory, its images on disk. Everything is in the order of the source.

    labels: (N,) int64; -1: unknown
    mode:   (N,) uint8, JPEG or RAW; height and width (N,) uint16
    start:  (N,) uint64, the byte at which an image begins; size (N,) uint64, its number of bytes
    first:  the byte at which the pages begin; sha256: of all bytes from there to the allocation table
    """

    path: Path
    about: Description
    labels: Integers
    mode: Bytes
    height: npt.NDArray[np.uint16]
    width: npt.NDArray[np.uint16]
    start: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    first: int
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def content(self) -> Bytes:
        """The bytes of the file, memory-mapped, read-only."""
        return np.asarray(np.memmap(self.path, np.uint8, "r"))

    def picture(self, position: int) -> Bytes:
        """One image as stored, (height, width, 3) uint8, read without FFCV. Raises UserError where it is damaged."""
        import io

        from PIL import Image

        start, size = int(self.start[position]), int(self.size[position])
        data = self.content[start : start + size]
        if self.mode[position] == RAW:
            return data.reshape(int(self.height[position]), int(self.width[position]), 3)
        try:
            with Image.open(io.BytesIO(data.tobytes())) as opened:
                return np.asarray(opened.convert("RGB"))
        except Exception as error:
            raise damaged(self.path, f"image {position} is not a JPEG") from error

    def is_intact(self) -> bool:
        """Whether description and images match their checksum. Reads the whole file."""
        end = len(self.content) - ALLOCATION.itemsize * len(self)
        digest = hashlib.sha256()
        for start in range(self.first, end, PAGE):
            digest.update(self.content[start : min(start + PAGE, end)].data)
        return digest.hexdigest() == self.sha256


def damaged(path: Path, reason: str) -> UserError:
    """The error for a damaged file."""
    return UserError(f"{path}: damaged beton ({reason}); remove it and write it again with dist-advss data write")


def open_beton(path: Path) -> Beton:
    """The beton at `path`, its structure and the checksum of its tables verified. Images are not read.

    Raises UserError for a file that is missing, damaged, truncated, or not written by `dist-advss data write`.
    """
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(0)
            header = _read(path, file, HEADER, 1)[0]
            if header["version"] != VERSION or header["num_fields"] != len(FIELDS):
                raise UserError(
                    f"{path}: not a beton written by dist-advss; write one with dist-advss data write data=… out=…"
                )
            fields = _read(path, file, FIELD, len(FIELDS))
            seal = _seal(path, fields)
            count, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
            if length != table + count * ALLOCATION.itemsize:
                raise damaged(path, f"{length:,} bytes instead of {table + count * ALLOCATION.itemsize:,}")
            records = _read(path, file, RECORD, count)
            file.seek(seal["about"][0])
            about = file.read(seal["about"][1])
            file.seek(table)
            allocations = _read(path, file, ALLOCATION, count)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); write it with dist-advss data write") from error
    if checksum(records, allocations, about) != seal["tables"]:
        raise damaged(path, "its tables fail their checksum")
    image = records["f0"]
    return Beton(
        path=path,
        about=Description(**json.loads(about)),
        labels=np.ascontiguousarray(records["f1"]),
        mode=np.ascontiguousarray(image["mode"]),
        height=np.ascontiguousarray(image["height"]),
        width=np.ascontiguousarray(image["width"]),
        start=np.ascontiguousarray(image["data_ptr"]),
        size=np.ascontiguousarray(allocations["size"]),
        first=seal["about"][0],
        sha256=seal["sha256"],
    )


def head(page_size: int, count: int, table: int, seal: dict[str, Any]) -> bytes:
    """The bytes of the header and the field descriptors. `table` is the position of the allocation table."""
    header = np.zeros(1, HEADER)
    header[0] = (VERSION, len(FIELDS), page_size, count, table)
    fields = np.zeros(len(FIELDS), FIELD)
    for field, (name, number) in zip(fields, FIELDS, strict=True):
        field["type_id"] = number
        field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    text = json.dumps(seal).encode()
    fields[0]["arguments"][: len(text)] = np.frombuffer(text, np.uint8)
    return header.tobytes() + fields.tobytes()


def checksum(records: npt.NDArray[Any], allocations: npt.NDArray[Any], about: bytes) -> int:
    """CRC-32 of records, allocation table and description."""
    return zlib.crc32(about, zlib.crc32(allocations.tobytes(), zlib.crc32(records.tobytes())))


def encode(about: Description) -> bytes:
    """The description as bytes."""
    return json.dumps(asdict(about)).encode()


def pages_start(count: int, page_size: int) -> int:
    """The byte at which the pages begin, which contain the description and the images."""
    return -(-(RECORDS_START + count * RECORD.itemsize) // page_size) * page_size


def _seal(path: Path, fields: npt.NDArray[Any]) -> dict[str, Any]:
    """Position and checksums, from the unused bytes of the first field descriptor. Raises UserError without them."""
    names = [(bytes(field["name"]).rstrip(b"\0").decode("ascii", "replace"), int(field["type_id"])) for field in fields]
    try:
        seal = json.loads(bytes(fields[0]["arguments"]).rstrip(b"\0"))
        if names == list(FIELDS) and seal.keys() >= {"about", "tables", "sha256"}:
            return dict(seal)
    except (ValueError, AttributeError):
        pass
    raise UserError(
        f"{path}: a beton, but not written by dist-advss; write one with dist-advss data write data=… out=…"
    )


def _read(path: Path, file: Any, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    entries = np.fromfile(file, dtype, count)
    if len(entries) != count:
        raise damaged(path, "truncated")
    return entries

"""Reads .npz files from anybody: plain numbers and texts, of a bounded size that is known before anything is inflated."""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

LARGEST = 2 * 2**30  # bytes of all arrays of a file; the verdicts of 20 models on 20 sources over ImageNet take 90 MB
HEADER = 12_000  # bytes that hold every header; numpy refuses longer ones
PLAIN = "biufU"  # kinds of dtype: truth values, whole numbers, real numbers, texts


class ArraysError(ValueError):
    """A file that is no .npz of plain arrays. Its text is one line, without the file's name."""


def read_arrays(file: Path, largest: int = LARGEST) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name, of `largest` bytes at most when unpacked.

    Raises OSError for a missing file, ArraysError for a damaged or too large one.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArraysError("not a regular file")
        try:
            with zipfile.ZipFile(opened) as archive:
                claimed = sum(entry.file_size for entry in archive.infolist())
                if claimed > largest:
                    raise ArraysError(f"{claimed:,} bytes when unpacked, more than {largest:,}")
                return {
                    entry.filename.removesuffix(".npy"): _array(_unpacked(archive, entry))
                    for entry in archive.infolist()
                }
        except ArraysError:
            raise
        except Exception as error:  # a damaged archive can raise almost any exception
            raise ArraysError(str(error).split("\n")[0] or type(error).__name__) from error


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytearray:
    """The bytes of an entry, which its array uses without another copy."""
    content = bytearray(entry.file_size)
    stream: Any
    with archive.open(entry) as stream:
        done = 0
        while done < len(content) and (count := stream.readinto(memoryview(content)[done:])):
            done += count
        if done < len(content) or stream.read(1):
            raise ArraysError("an entry does not have as many bytes as it claims")
    return content


def _array(content: bytearray) -> NDArray[Any]:
    """The array in an .npy file. Raises ArraysError unless its header describes exactly the bytes that follow."""
    stream = io.BytesIO(memoryview(content)[:HEADER])
    version = npy.read_magic(stream)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ArraysError(f"an .npy file of version {version}")
    shape, by_column, dtype = read_header(stream)
    if dtype.kind not in PLAIN or dtype.itemsize == 0:
        raise ArraysError(f"an array of {dtype}; only numbers and texts are accepted")
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ArraysError(f"an array of shape {list(shape)} does not have that many bytes")
    array = np.frombuffer(content, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if by_column else "C")

"""Builds fashion_mini from Fashion-MNIST's IDX files. The arrays are always the same, the bytes for one version of Python.

    python -m dist_advss.data.sets.build_fashion_mini [--source FOLDER] [--out FILE]

It takes the first 1,000 training images and the first 200 test images of each class, in the order of the source, and
interleaves them by class. So the first N images contain every class equally often.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
from pathlib import Path

import numpy as np

from ...errors import UserError
from ..image_set import Bytes, Integers
from .fashion import CLASSES, DEBIAN, MINI, idx_files, read_idx

PER_CLASS = {"train": 1000, "test": 200}
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def interleaved(labels: Bytes, per_class: int) -> Integers:
    """Positions (classes * per_class,) of the first images of each class, interleaved by class."""
    return np.stack([np.flatnonzero(labels == c)[:per_class] for c in range(len(CLASSES))], axis=1).reshape(-1)


def archive(source: Path) -> bytes:
    """An uncompressed npz of {train,test}_{images,labels}, uint8, from the folder of IDX files. Raises UserError."""
    arrays: dict[str, Bytes] = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        files = idx_files(source, f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        if files is None:
            raise UserError(f"--source {source}: has no Fashion-MNIST; give the folder with its IDX files")
        labels = read_idx(files[1])
        rows = interleaved(labels, PER_CLASS[part])
        arrays[f"{part}_images"] = read_idx(files[0])[rows]
        arrays[f"{part}_labels"] = labels[rows]
    container = io.BytesIO()
    np.savez(container, **arrays)  # type: ignore[arg-type]
    return container.getvalue()


def build(source: Path) -> bytes:
    """The content of fashion_mini.npz.xz: the archive, compressed by xz. Takes about ten seconds."""
    return lzma.compress(archive(source), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the embedded Fashion-MNIST subset.")
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=MINI, help="file to write")
    arguments = parser.parse_args()
    content = build(arguments.source)
    arguments.out.write_bytes(content)
    print(f"{arguments.out}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()

"""What the rest of the program sees of a set (`ImageSet`), and what a reader of files gives (`Source`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images in main memory.

    images:  (N, H, W, C) uint8, contiguous
    labels:  (N,) int64 in 0..len(classes)-1; -1: unknown
    index:   (N,) int64, position in the source (its training or its test part)
    classes: the names of the classes
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> ImageSet:
        """The first `n` images without copying them; all of them for None or where there are fewer."""
        return ImageSet(self.images[:n], self.labels[:n], self.index[:n], self.classes)


@dataclass(frozen=True)
class Source:
    """The training or test part of a set as it lies on disk.

    labels:  (N,) int64; -1: unlabelled
    classes: the names of the classes
    pixels:  from positions (n,) int64 to images (n, H, W, C) uint8, contiguous; a tree of files decodes only these
    files:   the file of each image, where each has one of its own
    """

    labels: Integers
    classes: list[str]
    pixels: Callable[[Integers], Bytes]
    files: list[Path] | None = None


def take(view: Bytes, rows: Integers) -> Bytes:
    """Rows of an array of any strides as a new contiguous one, in pieces, so that nothing is held twice."""
    out = np.empty((len(rows), *view.shape[1:]), np.uint8)
    for start in range(0, len(rows), 4096):
        out[start : start + 4096] = view[rows[start : start + 4096]]
    return out

"""Images in memory (`ImageSet`), and the part of a data set that a reader of files returns (`Source`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import UserError

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


class NoSuchPart(UserError):
    """Images without labels that have no test part."""


@dataclass(frozen=True)
class ImageSet:
    """Images in main memory.

    images:  (N, H, W, C) uint8, contiguous
    labels:  (N,) int64 in 0..len(classes)-1; -1: unknown
    index:   (N,) int64, position in the source (the training or the test part)
    classes: the names of the classes; [] where no image has a label
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> ImageSet:
        """The first `n` images, not copied. All of them for None, or if there are fewer."""
        return ImageSet(self.images[:n], self.labels[:n], self.index[:n], self.classes)


@dataclass(frozen=True)
class Source:
    """The training or test part of a data set on disk.

    labels:  (N,) int64; -1: unlabelled
    classes: the names of the classes; [] where no image has a label
    pixels:  maps positions (n,) int64 to images (n, H, W, C) uint8, contiguous; only these are decoded
    files:   the file of each image, where each image is a separate file
    """

    labels: Integers
    classes: list[str]
    pixels: Callable[[Integers], Bytes]
    files: list[Path] | None = None


def take(view: Bytes, rows: Integers) -> Bytes:
    """Rows of an array of any strides, copied in pieces into a new contiguous array, so that memory holds them once."""
    out = np.empty((len(rows), *view.shape[1:]), np.uint8)
    for start in range(0, len(rows), 4096):
        out[start : start + 4096] = view[rows[start : start + 4096]]
    return out

"""The readers of data sets by `data.name`, and the checks that every set must pass.

A new set is one reader `(data, part) -> Source` and one line in READERS; `part` is "train", "train+unlabelled" or "test".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...config.checks import check_shape
from ...config.schema import Data
from ...errors import UserError
from ..image_set import Source
from . import fashion, folder, imagenet32, torchvision_sets
from .stage import staged

READERS: dict[str, Callable[[Data, str], Source]] = {
    "fashion_mini": fashion.read_mini,
    "fashion_mnist": fashion.read_full,
    "cifar10": torchvision_sets.read_cifar10,
    "cifar100": torchvision_sets.read_cifar100,
    "svhn": torchvision_sets.read_svhn,
    "stl10": torchvision_sets.read_stl10,
    "imagenet32": imagenet32.read,
    "folder": folder.read,
}


def read(data: Data, part: str) -> Source:
    """The part "train", "train+unlabelled" or "test" of the set that `data` names. Raises UserError.

    "train+unlabelled" adds the images without a label (label -1) after the labelled ones. Only stl10 has any.
    """
    check_shape(data)
    source = READERS[data.name](staged(data), part)
    if len(source.labels) == 0:
        raise UserError(f"data.root={data.root}: the {part} part of {data.name} is empty; check the files")
    if len(source.classes) != data.classes:
        raise UserError(
            f"data.classes={data.classes}: {data.name} has {len(source.classes)} classes; "
            f"set data.classes={len(source.classes)}"
        )
    lowest = -1 if part == "train+unlabelled" else 0
    invalid = np.flatnonzero((source.labels < lowest) | (source.labels >= data.classes))
    if len(invalid):
        raise UserError(
            f"data.root={data.root}: image {invalid[0]} of the {part} part of {data.name} has label "
            f"{source.labels[invalid[0]]}, outside 0..{data.classes - 1} ({len(invalid)} such images); "
            "correct the labels or data.classes"
        )
    return source

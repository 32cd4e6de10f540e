"""Published corrupted images, such as CIFAR-10-C: a folder of KIND.npy and labels.npy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.schema import CorruptionsConfig
from ..errors import UserError
from .image_set import Integers
from .sets.fingerprint import file_digests


@dataclass(frozen=True)
class Published:
    """The images by kind, (5, N, H, W, C) uint8 with the severity first, and their labels (N,)."""

    images: dict[str, NDArray[np.uint8]]
    labels: NDArray[np.int64]


def load_published(config: CorruptionsConfig, count: int, order: Integers | None) -> Published:
    """The published corrupted images of a set of `count` test images: KIND.npy holds five severities one after the other.

    labels.npy counts through the classes of the set, and `order` gives the model's label of each class, or None where the two
    are the same. Raises UserError for another layout.
    """
    root, data = Path(config.published or ""), config.data
    if config.split != "test":
        raise UserError(f"published={root}: holds test images, and split={config.split}; choose split=test")
    images: dict[str, NDArray[np.uint8]] = {}
    for kind in config.kinds:
        array = _array(root, kind)
        shape = (5 * count, data.size, data.size, data.channels)
        if array.dtype != np.uint8 or array.shape != shape:
            raise UserError(
                f"published={root}: {kind}.npy is {array.dtype} {list(array.shape)}, not uint8 {list(shape)}, which is five "
                f"severities of the {count} test images"
            )
        images[kind] = array.reshape(5, count, *shape[1:])
    labels = np.asarray(_array(root, "labels")).astype(np.int64)
    classes = data.classes or 0
    if labels.shape not in ((count,), (5 * count,)) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"published={root}: labels.npy does not hold a class of 0 to {classes - 1} for each of the {count} images"
        )
    if (labels.reshape(-1, count) != labels[:count]).any():
        raise UserError(
            f"published={root}: labels.npy differs between severities, which must hold the same {count} images in the same order"
        )
    labels = labels[:count]
    return Published(images, labels if order is None else order[labels])


def published_files(kinds: Iterable[str]) -> list[str]:
    """The names of the files that hold these kinds of corrupted images and the labels."""
    return [f"{name}.npy" for name in (*kinds, "labels")]


def digests_of(folder: str, names: Iterable[str]) -> dict[str, str]:
    """A hash of name and content for each of these files in `published=FOLDER`. Raises UserError for one that cannot be read."""
    return file_digests(f"published={folder}", [Path(folder) / name for name in names])


def _array(root: Path, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(root / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, ValueError) as error:
        raise UserError(
            f"published={root}: {name}.npy is missing or damaged; fetch it, or leave it out of kinds"
        ) from error

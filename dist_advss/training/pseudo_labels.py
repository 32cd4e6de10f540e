"""The file pseudo_labels.npz of a run: which label a source gave to which image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import ArraysError, read_arrays
from ..config.pseudo import FILE
from ..data.image_set import Integers
from ..errors import UserError
from ..files import write_whole


@dataclass(frozen=True)
class PseudoLabels:
    """What a source answered.

    index:    (N,) int64, ascending: positions in the training part, of the images that have a pseudo-label
    label:    (N,) int64, in 0..K-1
    classes:  the K names; [] for clusters
    clusters: K for clusters; 0 for classes
    images:   the fingerprint of the training part
    source:   digest of the weights that answered, or of the file that the labels were taken from
    accuracy: percentage that is right where the set has a label too (of clusters, under the best matching with classes); NaN where
              it has none. For the record only
    """

    index: Integers
    label: Integers
    classes: list[str]
    clusters: int
    images: str
    source: str
    accuracy: float

    def save(self, folder: Path) -> None:
        """Writes FOLDER/pseudo_labels.npz atomically. Raises RunError when the disk is full."""
        arrays: dict[str, Any] = {**vars(self), "classes": np.asarray(self.classes, np.str_)}
        write_whole(folder / FILE, lambda file: np.savez_compressed(file, **arrays))

    def digest(self) -> str:
        """A hash of the images, their labels and the classes: 16 hexadecimal digits."""
        content = hashlib.sha256(f"{self.images} {self.clusters} {self.classes}\n".encode())
        content.update(self.index.tobytes())
        content.update(self.label.tobytes())
        return content.hexdigest()[:16]

    def of(self, index: Tensor, labels: Tensor) -> Tensor:
        """`labels` (n,) int64 of the images at `index` (n,), with the pseudo-label where one is -1. Raises UserError."""
        wanted = index[labels < 0].numpy()
        place = np.searchsorted(self.index, wanted).clip(max=max(len(self.index) - 1, 0))
        if not len(self.index) or not np.array_equal(self.index[place], wanted):
            raise UserError(
                f"{FILE}: has no label for some images of this run; take that of a run with the same data keys"
            )
        found = labels.clone()
        found[labels < 0] = torch.from_numpy(self.label[place])
        return found


def read(file: Path) -> PseudoLabels:
    """The content of a file that `save` wrote. Raises UserError for one that is missing or damaged."""
    try:
        arrays = read_arrays(file)
        found = PseudoLabels(
            index=arrays["index"].astype(np.int64),
            label=arrays["label"].astype(np.int64),
            classes=[str(name) for name in arrays["classes"]],
            clusters=int(arrays["clusters"]),
            images=str(arrays["images"]),
            source=str(arrays["source"]),
            accuracy=float(arrays["accuracy"]),
        )
        count = found.clusters or len(found.classes)
        if found.index.shape != found.label.shape or found.index.ndim != 1 or not (np.diff(found.index) > 0).all():
            raise ArraysError("its images are not one label each, in order")
        if len(found.label) and not 0 <= found.label.min() <= found.label.max() < count:
            raise ArraysError(f"labels beyond its {count} classes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{file}: no pseudo-labels of dist-advss ({reason})") from error
    return found

"""What an evaluation found for each image, from its verdicts.npz."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...arrays import read_arrays
from .intervals import Mask

LARGEST = 128 * 2**20  # bytes of a file's arrays: four million images


@dataclass(frozen=True)
class Judged:
    """Each image (N,) of an evaluation: its position and label, and whether the model was right on it.

    right: clean ("ta") and attacked ("ra")
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    right: dict[str, Mask]

    def of_the_images_of(self, other: Judged) -> bool:
        """Whether both judged the same images: equal positions and labels."""
        return np.array_equal(self.index, other.index) and np.array_equal(self.label, other.label)


def judged(folder: Path) -> Judged | None:
    """The content of an evaluation's verdicts.npz; None where it is missing or damaged."""
    file = folder / "verdicts.npz"
    try:
        return _read(file, file.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=512)  # a row is compared several times; `version` distinguishes a file from its replacement
def _read(file: Path, version: int) -> Judged | None:
    try:
        arrays = read_arrays(file, LARGEST)
        index, label = arrays["index"], arrays["label"]
        right = {"ta": arrays["clean_prediction"] == label, "ra": arrays["adversarial_prediction"] == label}
    except (OSError, ValueError, KeyError):
        return None
    fits = index.ndim == 1 and label.shape == index.shape
    fits = fits and all(isinstance(r, np.ndarray) and r.shape == index.shape for r in right.values())
    return Judged(index, label, right) if fits and len(index) else None

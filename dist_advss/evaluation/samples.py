"""The first images of an evaluation, kept for people to look at as the attack leaves them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .by_image import ByImage, Partial

SAMPLES = 16


@dataclass
class Samples(ByImage):
    """adversarial (K, H, W, C) float32 in [0,1]: the images that `Verdicts.adversarial_prediction` is of."""

    adversarial: np.ndarray

    @staticmethod
    def empty(size: int, channels: int) -> Samples:
        return Samples(np.empty(0, dtype=np.int64), np.empty((0, size, size, channels), dtype=np.float32))


class Keeper:
    """Keeps the images at the positions `wanted` (K,) int64 of the source as they are found, so that none is attacked twice.

    Each is saved to `partial` at once, and so before its verdict: a kill loses no image whose verdict is saved. `kept` has
    those so far, with those that earlier sessions saved.
    """

    def __init__(self, wanted: NDArray[np.int64], kept: Samples, partial: Partial) -> None:
        self.wanted, self.kept, self.partial = wanted, kept, partial

    def note(self, index: Tensor, images: Tensor) -> None:
        """Takes what was found for a batch: `index` (N,), images (N, C, H, W)."""
        positions = index.cpu().numpy()
        here = np.isin(positions, self.wanted)
        if here.any():
            pictures = images[here.nonzero()[0]].permute(0, 2, 3, 1).float().cpu().numpy()
            self.kept = Samples(positions[here], pictures).joined([self.kept])
            self.partial.save(self.kept)

"""Fewer points that draw the same curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decimate(x: NDArray[Any], y: NDArray[Any], buckets: int) -> NDArray[np.int64]:
    """Indices of at most 4 * `buckets` points that draw the same line on `buckets` pixels. x ascending and y are (N,).

    M4 (Jugel et al., VLDB 2014): x is cut into `buckets` equal stretches, and the first, last, lowest and highest point of
    each are kept. No spike and no collapse is averaged away. Every point that is drawn was measured.
    """
    if len(x) <= 4 * buckets:
        return np.arange(len(x))
    bounds = np.searchsorted(x, np.linspace(x[0], x[-1], buckets + 1)[1:-1], side="left")
    starts, ends = np.r_[0, bounds], np.r_[bounds, len(x)]
    indices = []
    for start, end in zip(starts, ends, strict=True):
        if start < end:
            part = y[start:end]
            indices += [start, start + int(part.argmin()), start + int(part.argmax()), end - 1]
    return np.unique(indices)

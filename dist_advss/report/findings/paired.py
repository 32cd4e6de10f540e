"""Confidence intervals for the difference between two models that were judged on the same images."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # 97.5% point of the normal distribution
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Each image (N,) of an evaluation: its position, and whether the model was right on it, clean ("ta") and attacked ("ra")."""

    index: NDArray[np.int64]
    right: dict[str, Mask]


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
        with np.load(file, allow_pickle=False) as archive:
            index, label = archive["index"], archive["label"]
            right = {"ta": archive["clean_prediction"] == label, "ra": archive["adversarial_prediction"] == label}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    fits = index.ndim == 1 and all(isinstance(r, np.ndarray) and r.shape == index.shape for r in right.values())
    return Judged(index, right) if fits and len(index) else None


def paired_interval(before: Mask, after: Mask) -> tuple[float, float]:
    """The 95% interval of accuracy(after) - accuracy(before), in points. `before` and `after` (N,) are for the same images.

    Wilson's intervals of both rates, combined with the correlation of the verdicts (Newcombe 1998, Statistics in Medicine
    17:2635, method 10). Models agree on most images, so the interval is narrower than that for independent rates.
    """
    n = len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    new, old = (both + gained) / n, (both + lost) / n
    (new_low, new_high), (old_low, old_high) = wilson(new, n), wilson(old, n)
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    # the correlation phi of the verdicts, corrected for continuity
    excess: float = both * neither - gained * lost
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    phi = excess / math.sqrt(product) if product else 0.0
    down, up = _side(new - new_low, old_high - old, phi), _side(new_high - new, old - old_low, phi)
    return 100 * (new - old - down), 100 * (new - old + up)


def _side(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def wilson(rate: float, n: int) -> tuple[float, float]:
    """The 95% score interval of a rate in [0,1] (Wilson 1927)."""
    centre, half = rate + Z * Z / (2 * n), Z * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return (centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)
